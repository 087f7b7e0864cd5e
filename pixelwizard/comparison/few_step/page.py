"""The page of a comparison of objectives: tables and figures with 95 % intervals.

Intervals are by resampling seeds and clips. S seeds, C clips, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pixelwizard.comparison.few_step.files import (
    START,
    Arms,
    Found,
    Seeds,
    few_step_folder,
    read_found,
    start_of,
)
from pixelwizard.config.train import ARM_BUDGETS, ComparisonSettings, TrainConfig
from pixelwizard.evaluation.frechet import Moments, frechet_distance
from pixelwizard.evaluation.metrics.frame_mmd import FrameKernelDistance
from pixelwizard.io.files import atomic, read_json, write_json, write_text
from pixelwizard.io.terminal import markdown

PAGE, VALUES = "objectives.md", "objectives.json"
KERNEL = FrameKernelDistance.kernel
COSTS = "A pass with gradient counts as three."
ENDS = "PSNR with its interval; frame-MMD and FVD with the minimum and maximum over the seeds"
BUDGETS = {
    "samples": "Every variant was trained for the same number of steps.",
    "work": "Every variant was trained until it had made as many passes as flow matching.",
}
FEATURES = ("features", "real", "images")
"""Figures of a decoded clip that are numbers only together."""
PANELS, TICKS = 4, (1, 3, 10, 30)
RESAMPLINGS = 2000
Interval = dict[str, float]
"""``value``, ``low`` and ``high``."""


def write_page(folder: Path, first: TrainConfig) -> list[str]:
    """The tables, the figures and all values of a sweep's folder; names of arms left out.

    ``first`` is one of the sweep's arms.
    """
    settings = first.comparison
    found, left_out = read_found(folder, settings, start_of(first))
    real = few_step_folder(start_of(first)) / "real_images.json"
    images = torch.tensor(read_json(real)["images"]) if real.is_file() else None
    lines = ["# Few-step objectives compared", "", COSTS, "", *costs(found.costs)]
    for budget in [budget for budget in ARM_BUDGETS if budget in found.arms]:
        lines += ["", f"## Equal {budget}", "", BUDGETS[budget], ""]
        lines += tables(found.of(budget), settings, images)
        lines += ["", f"![distance over passes](objectives_{budget}.svg)"]
        picture = folder / f"objectives_{budget}.svg"
        draw(found.of(budget), list(found.known), settings.passes, picture)
    if left_out:
        lines += ["", f"Not measured, so left out: {', '.join(left_out)}."]
    write_text(folder / PAGE, "\n".join(lines) + "\n")
    write_json(folder / VALUES, {"arms": values(found), "costs": found.costs})
    return left_out


def costs(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What a step of each arm costs, and how many steps make equal work."""
    head = ["variant", "passes per step (flow matching: 1)", "steps for equal work"]
    rows = [[name, f"{cost['passes']:.2f}", f"{cost['steps']}"] for name, cost in found.items()]
    return markdown([head, *rows])


def tables(found: Arms, settings: ComparisonSettings, images: Tensor | None) -> list[str]:
    """The tables of one budget."""
    lines = [f"Distance to the {START}ing network's many steps, thousandths, 95 % intervals:", ""]
    lines += distances(found, settings.passes)
    if settings.against in found:
        paired_with = f"Difference from {settings.against}, paired by clip and seed"
        lines += ["", f"{paired_with}; below 0 is closer:", ""]
        lines += differences(found, settings.passes, settings.against)
    for count in settings.decoded:
        lines += ["", f"Decoded, {_passes(count)}; {ENDS}:", "", *quality(found, count, images)]
    return lines


def distances(found: Arms, passes: Sequence[int]) -> list[str]:
    """The distance by arm and passes, in thousandths."""
    rows = {
        name: (len(seeds), [columns(seeds, n, "distance") for n in passes])
        for name, seeds in found.items()
    }
    return _table(rows, passes)


def differences(found: Arms, passes: Sequence[int], against: str) -> list[str]:
    """The distance minus that of ``against``, paired by clip and seed."""
    rows = {}
    for name, seeds in found.items():
        own, other = paired(seeds, found[against])
        if name != against and own:
            apart = [columns(own, n, "distance") - columns(other, n, "distance") for n in passes]
            rows[name] = (min(len(seeds), len(own)), apart)
    return _table(rows, passes)


def paired(one: Seeds, other: Seeds) -> tuple[Seeds, Seeds]:
    """The rows of the seeds that both have; a network that no arm trained has every seed."""
    if None in one:
        one = dict.fromkeys(other, one[None])
    if None in other:
        other = dict.fromkeys(one, other[None])
    seeds = [seed for seed in one if seed in other]
    return {seed: one[seed] for seed in seeds}, {seed: other[seed] for seed in seeds}


def _table(
    rows: Mapping[str, tuple[int, Sequence[np.ndarray]]], passes: Sequence[int]
) -> list[str]:
    """The mean of values [S, C] by arm and passes, in thousandths; first how many seeds."""
    lines = [["variant", "seeds", *map(_passes, passes)]]
    for name, (count, values) in rows.items():
        lines.append([name, f"{count}", *(in_thousandths(interval(v)) for v in values)])
    return markdown(lines)


def _passes(count: int) -> str:
    return f"{count} pass{'' if count == 1 else 'es'}"


def quality(found: Arms, passes: int, real_images: Tensor | None) -> list[str]:
    """What the decoded clips of so many passes are like.

    PSNR with its interval; both set distances with the least and the greatest of the seeds.
    """
    rows = [["variant", "PSNR, dB", "frame-MMD, thousandths", "FVD", "judge, share correct"]]
    for name, seeds in found.items():
        features, real = (columns(seeds, passes, kind) for kind in ("features", "real"))
        psnr = shown(interval(columns(seeds, passes, "psnr")))
        alike = discrepancies(seeds, passes, real_images)
        judged = f"{columns(seeds, passes, 'judge').mean():.2f}"
        rows.append([name, psnr, alike, shown(fvd_over_seeds(features, real)), judged])
    return markdown(rows)


def discrepancies(seeds: Seeds, passes: int, real_images: Tensor | None) -> str:
    """Frame-MMD of the seeds; a dash where the image network was not installed."""
    every = [row[f"{passes}"] for rows in seeds.values() for row in rows]
    if real_images is None or any("images" not in row for row in every):
        return "-"
    images = torch.from_numpy(columns(seeds, passes, "images"))
    return shown(mean_and_range([1000 * KERNEL.discrepancy(one, real_images) for one in images]))


def values(found: Found) -> list[dict[str, object]]:
    """Every figure of every clip that is a number by itself, a line each."""
    return [
        {"budget": budget, "arm": name, "seed": seed, "clip": clip, "passes": int(count)}
        | {kind: value for kind, value in figures.items() if kind not in FEATURES}
        for budget in found.arms
        for name, seeds in found.of(budget).items()
        for seed, rows in seeds.items()
        for clip, row in enumerate(rows)
        for count, figures in row.items()
    ]


def draw(found: Mapping[str, Seeds], known: Sequence[str], passes: Sequence[int], to: Path) -> None:
    """Write the SVG: each arm with its interval, all others in grey behind it.

    ``found`` has the rows of every arm by seed. ``known`` are networks that no arm trained; every
    panel has them, dashed and dotted.
    """
    curves = {
        name: [interval(columns(seeds, n, "distance")) for n in passes]
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


def columns(seeds: Seeds, passes: int, figure: str) -> np.ndarray:
    """A figure of all seeds and clips, [S, C], or [S, C, D]."""
    return np.array([[row[f"{passes}"][figure] for row in rows] for rows in seeds.values()])


def interval(values_SC: np.ndarray) -> Interval:
    """The mean over all seeds and clips, with its 95 % interval from resampling both."""
    seeds, count = values_SC.shape
    draw = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLINGS):
        chosen_S, chosen_C = (draw.integers(n, size=(n,)) for n in (seeds, count))
        resampled.append(values_SC[chosen_S][:, chosen_C].mean())
    low, high = np.percentile(resampled, [2.5, 97.5])
    mean = values_SC[:, np.arange(count)].mean()  # added up in the order of those above
    return {"value": float(mean), "low": float(low), "high": float(high)}


def mean_and_range(values: list[float]) -> Interval:
    """The mean of some values, the least and the greatest."""
    return {"value": float(np.mean(values)), "low": min(values), "high": max(values)}


def fvd_over_seeds(ours_SCD: np.ndarray, real_SCD: np.ndarray) -> Interval:
    """FVD of generated to real features, a value for each seed.

    It has no interval by resampling: sets with repeated clips lie farther.
    """
    pairs = zip(torch.from_numpy(ours_SCD), torch.from_numpy(real_SCD), strict=True)
    return mean_and_range([frechet_distance(Moments.of(a), Moments.of(b)) for a, b in pairs])


def in_thousandths(found: Interval) -> str:
    """``shown`` of a thousand times the values."""
    return shown({key: 1000 * value for key, value in found.items()})


def shown(found: Interval) -> str:
    """Value and ends."""
    value, low, high = (found[key] for key in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
