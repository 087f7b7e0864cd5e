"""The tables and the figure of ``measure/objectives.py``. S seeds, C clips, D features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import distance_of_sets, in_thousandths, interval, mean_of, over_seeds
from torch import Tensor

from pixelwizard.evaluation.kernel import Kernel

Row = dict[str, Any]
Seeds = Sequence[Sequence[Row]]
"""The rows of a method: of every seed those of its clips."""
KERNEL = Kernel(3, 1.0)
PANELS, TICKS = 4, (1, 3, 10, 30)


def columns(seeds: Seeds, passes: int, figure: str) -> np.ndarray:
    """A figure of all seeds and clips, [S, C], or [S, C, D]."""
    return np.array([[row[f"{passes}"][figure] for row in rows] for rows in seeds])


def distances(found: Mapping[str, Seeds], passes: Sequence[int]) -> list[str]:
    """The distance by method and passes, in thousandths."""
    return _table(found, passes, lambda seeds, n: columns(seeds, n, "distance"))


def differences(found: Mapping[str, Seeds], passes: Sequence[int], against: str) -> list[str]:
    """What the distance is above that of ``against``, paired by clip and seed."""
    base = found[against]

    def above(seeds: Seeds, n: int) -> np.ndarray:
        own, other = columns(seeds, n, "distance"), columns(base, n, "distance")
        shared = max(len(own), len(other)) if 1 in (len(own), len(other)) else None
        shared = shared or min(len(own), len(other))
        return own[:shared] - other[:shared]

    others = {method: seeds for method, seeds in found.items() if method != against}
    return _table(others, passes, above)


def _table(
    found: Mapping[str, Seeds], passes: Sequence[int], figure: Callable[[Seeds, int], np.ndarray]
) -> list[str]:
    lines = ["| method | seeds | " + " | ".join(_passes(n) for n in passes) + " |"]
    lines.append("|---|---:|" + "---|" * len(passes))
    for method, seeds in found.items():
        cells = [in_thousandths(interval(figure(seeds, n), mean_of)) for n in passes]
        lines.append(f"| {method} | {len(seeds)} | " + " | ".join(cells) + " |")
    return lines


def _passes(count: int) -> str:
    return f"{count} pass{'' if count == 1 else 'es'}"


def quality(found: Mapping[str, Seeds], passes: int, real_images: Tensor) -> list[str]:
    """What the decoded clips of so many passes are like.

    PSNR with its interval; both set distances with the least and the greatest of the seeds.
    """
    head = "| method | PSNR, dB | frame-MMD, thousandths | FVD | judge |"
    lines = [head, "|---|---|---|---|---:|"]
    for method, seeds in found.items():
        sharp = interval(columns(seeds, passes, "psnr"), mean_of)
        pairs = np.stack([columns(seeds, passes, name) for name in ("features", "real")], axis=2)
        fvd = over_seeds(pairs, distance_of_sets)
        images = torch.from_numpy(columns(seeds, passes, "images"))
        apart = [1000 * discrepancy(one, real_images) for one in images]
        mmd = {"value": float(np.mean(apart)), "low": min(apart), "high": max(apart)}
        cells = [_with_ends(figure) for figure in (sharp, mmd, fvd)]
        right = columns(seeds, passes, "judge").mean()
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {right:.2f} |")
    return lines


def _with_ends(figure: Row) -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def discrepancy(ours_VD: Tensor, real_WD: Tensor) -> float:
    """The unbiased squared discrepancy of two sets of videos, as ``frame-mmd`` has it."""
    ours, real = (list(videos.float()[:, None]) for videos in (ours_VD, real_WD))
    own, other, both = KERNEL.sums(ours, ours), KERNEL.sums(real, real), KERNEL.sums(ours, real)
    means = [
        (pairs.sum() - pairs.trace()) / (len(pairs) * (len(pairs) - 1)) for pairs in (own, other)
    ]
    return float(sum(means) - 2 * both.mean())


def draw(found: Mapping[str, Seeds], known: Sequence[str], passes: Sequence[int], to: Path) -> None:
    """Distance over passes, a panel per method: its interval, all others in grey behind it.

    ``known`` are networks that no method trained; every panel has them, dashed.
    """
    from matplotlib import pyplot

    curves = {m: [interval(columns(s, n, "distance"), mean_of) for n in passes]
              for m, s in found.items()}  # fmt: skip
    trained = [method for method in found if method not in known]
    rows = -(-len(trained) // PANELS)
    figure, axes = pyplot.subplots(
        rows, PANELS, figsize=(3 * PANELS, 2.5 * rows), sharex=True, sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, method in zip(axes.flat, trained, strict=False):
        for other in trained:
            axis.plot(passes, _ends(curves[other], "value"), color="0.85", linewidth=1)
        for name, style in zip(known, ("--", ":"), strict=True):
            axis.plot(passes, _ends(curves[name], "value"), style, color="0.3", label=name)
        low, high = (_ends(curves[method], end) for end in ("low", "high"))
        axis.fill_between(passes, low, high, alpha=0.25)
        axis.plot(passes, _ends(curves[method], "value"), marker="o", markersize=4)
        axis.set_title(method, fontsize=10)
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(passes, [f"{n}" for n in passes])
        axis.set_yticks(TICKS, [f"{n}" for n in TICKS])
        axis.tick_params(labelbottom=True)  # the panel below may be empty
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(trained) :]:
        axis.axis("off")
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("passes")
    figure.supylabel("distance to the starting network's 50 steps, thousandths")
    figure.savefig(to)


def _ends(points: Sequence[Row], end: str) -> list[float]:
    return [1000 * point[end] for point in points]
