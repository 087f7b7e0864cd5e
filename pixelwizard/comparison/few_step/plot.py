"""The figure of a comparison of objectives: distance over passes, a panel for each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pixelwizard.comparison.few_step.intervals import Interval, Seeds, columns, interval, mean_of
from pixelwizard.io.files import atomic

PANELS, TICKS = 4, (1, 3, 10, 30)


def draw(found: Mapping[str, Seeds], known: Sequence[str], passes: Sequence[int], to: Path) -> None:
    """Write the SVG: each arm with its interval, all others in grey behind it.

    ``found`` has the rows of every arm by seed. ``known`` are networks that no arm trained; every
    panel has them, dashed and dotted.
    """
    curves = {
        name: [interval(columns(seeds, n, "distance"), mean_of) for n in passes]
        for name, seeds in found.items()
    }
    arms = [name for name in found if name not in known]
    rows = -(-len(arms) // PANELS)
    picture = Figure(figsize=(3 * PANELS, 2.5 * rows), layout="constrained")
    axes = picture.subplots(rows, PANELS, sharex=True, sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, arms, strict=False):
        for other in arms:
            axis.plot(passes, _ends(curves[other], "value"), color="0.85", linewidth=1)
        for one, style in zip(known, ("--", ":"), strict=False):
            axis.plot(passes, _ends(curves[one], "value"), style, color="0.3", label=one)
        _arm(axis, passes, curves[name])
        axis.set_title(name, fontsize=10)
    for axis in list(axes.flat)[len(arms) :]:
        axis.axis("off")
    if known:
        axes[0, 0].legend(fontsize=8)
    picture.supxlabel("passes")
    picture.supylabel("distance to the starting network's many steps, thousandths")
    with atomic(to) as part:
        picture.savefig(part, format="svg")


def _arm(axis: Axes, passes: Sequence[int], curve: Sequence[Interval]) -> None:
    axis.fill_between(passes, _ends(curve, "low"), _ends(curve, "high"), alpha=0.25)
    axis.plot(passes, _ends(curve, "value"), marker="o", markersize=4)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(passes, [f"{n}" for n in passes])
    axis.set_yticks(TICKS, [f"{n}" for n in TICKS])
    axis.tick_params(labelbottom=True)  # the panel below may be empty
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def _ends(curve: Sequence[Interval], end: str) -> list[float]:
    return [1000 * point[end] for point in curve]
