"""``pareto.png``: quality against seconds and against network passes."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pixelwizard.comparison.differences import Comparison, Row
from pixelwizard.io.files import atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00", "#8C6BB1")
"""Okabe and Ito's palette without its yellow, which paper does not show, and a violet."""
MARKERS = "osD^vPX*<"
"""One more than the colours, so the ninth variant does not look like the first."""
LABELS = {"seconds": "seconds of the stage per video", "nfe": "network passes (NFE)"}


def draw_pareto(comparison: Comparison, path: Path) -> None:
    """Write the PNG: a panel per cost; told apart by marker too, dominated variants are hollow.

    Variants of several trainings have a colour and a line for each training.
    """
    costs = [cost for cost in LABELS if cost in comparison.names]
    figure = Figure(figsize=(4.6 * len(costs) + 2.2, 4.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    for axes, cost in zip(panels, costs, strict=True):
        _panel(axes, comparison, cost)
    score = comparison.rows[0].scores[comparison.quality]
    better = "higher" if score.higher_is_better else "lower"
    panels[0].set_ylabel(f"{comparison.quality} ({better} is better)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    count = len(comparison.samples)
    pairs = f"{count} pair{'s' * (count != 1)} of prompt and seed"
    figure.suptitle(f"{pairs}; bars: 95 % intervals; hollow: dominated", fontsize=9)
    with atomic(path) as part:
        figure.savefig(part, format="png")


def colours_of(comparison: Comparison) -> list[str]:
    """A colour for each variant, or where there are several trainings, for each of these."""
    trained = _trainings(comparison)
    own = [trained.index(row.variant.trained) for row in comparison.rows]
    numbers = own if len(trained) > 1 else range(len(comparison.rows))
    return [COLOURS[number % len(COLOURS)] for number in numbers]


def _trainings(comparison: Comparison) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(row.variant.trained for row in comparison.rows))


def _panel(axes: Axes, comparison: Comparison, cost: str) -> None:
    rows = comparison.rows
    front = sorted((r for r in rows if not r.dominated[cost]), key=lambda r: r.scores[cost].value)
    points = [_point(row, comparison.quality, cost) for row in front]
    axes.plot(*zip(*points, strict=True), color="0.6", lw=1, zorder=1)
    trained = _trainings(comparison)
    for number, (row, colour) in enumerate(zip(rows, colours_of(comparison), strict=True)):
        score = row.scores[comparison.quality]
        x, y = _point(row, comparison.quality, cost)
        axes.errorbar(
            [x],
            [y],
            yerr=[[max(0.0, y - score.low)], [max(0.0, score.high - y)]],
            fmt=MARKERS[number % len(MARKERS)],
            color=colour,
            mfc="white" if row.dominated[cost] else colour,
            ms=7,
            lw=1,
            capsize=2,
            label=row.variant.name,
        )
    for number, one in enumerate(trained if len(trained) > 1 else []):
        joined = [row for row in rows if row.variant.trained == one]
        points = sorted(_point(row, comparison.quality, cost) for row in joined)
        axes.plot(*zip(*points, strict=True), color=COLOURS[number % len(COLOURS)], lw=1)
    costs = [row.scores[cost].value for row in rows]
    if min(costs) > 0:
        axes.set_xscale("log", base=2)
    else:  # enlarging costs no pass
        axes.set_xscale("symlog", base=2, linthresh=min((c for c in costs if c), default=1.0))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(LABELS[cost])
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def _point(row: Row, quality: str, cost: str) -> tuple[float, float]:
    return row.scores[cost].value, row.scores[quality].value
