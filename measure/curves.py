"""Draws how FVD and HD-FVD grow with damage: run by hand, needs matplotlib.

    python measure/curves.py docs/fvd_curves.svg

Held-out clips of 256x160 are damaged and measured with ``tiny-video``, against themselves and
against as many other clips, both clean.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pixelwizard.data import labelled, shapes
from pixelwizard.evaluation.frechet import FrechetDistance, Moments, frechet_distance
from pixelwizard.evaluation.metrics.fvd import FrechetVideoDistance
from pixelwizard.evaluation.metrics.hd_fvd import HDFrechetVideoDistance
from pixelwizard.evaluation.names import ASSETS, NETWORKS
from pixelwizard.evaluation.networks import VideoNetwork

CLIPS, LEVELS = 72, (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
WIDTH, HEIGHT, FRAMES = 256, 160, 16
DAMAGES: dict[str, Callable[[Tensor, float, random.Random], Tensor]] = {
    "blur (deviation up to 3 px)": labelled.blurred,
    "noise (deviation up to 25)": labelled.noisy,
    "shuffled frames (share)": labelled.shuffled,
    "dropped frames (share)": labelled.frozen,
}
Metrics = dict[str, FrechetDistance]
Curves = dict[str, dict[str, list[float]]]
"""Title of an axis -> reference -> a distance at every level."""


def clip(seed: int) -> Tensor:
    """uint8 [16, 3, H, W]."""
    frames = shapes.render(shapes.scene(seed, "heldout"), WIDTH, HEIGHT, FRAMES)
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def moments(metrics: Metrics, clips: list[Tensor]) -> dict[str, Moments]:
    """Of the features of the clips, seen frame by frame as in an evaluation."""
    found: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for video in clips:
        for name, metric in metrics.items():
            seen = [metric.look(frame.permute(1, 2, 0), None) for frame in video]
            found[name].append(
                metric.features(torch.stack([one for one in seen if torch.is_tensor(one)]))
            )
    return {name: Moments.of(torch.cat(samples)) for name, samples in found.items()}


def curves() -> Curves:
    """Both distances at every level of every damage, to both references."""
    network = VideoNetwork(NETWORKS["tiny-video"], ASSETS / "video", torch.device("cpu"))
    metrics: Metrics = {"FVD": FrechetVideoDistance(), "HD-FVD": HDFrechetVideoDistance()}
    for metric in metrics.values():
        metric.use(network)
    clips = [clip(seed) for seed in range(CLIPS)]
    clean = moments(metrics, clips)
    references = {
        "to themselves": clean,
        "to other clips": moments(metrics, [clip(CLIPS + seed) for seed in range(CLIPS)]),
    }
    found: Curves = {
        f"{name}, {damage}": {reference: [] for reference in references}
        for name in metrics
        for damage in DAMAGES
    }
    for damage, change in DAMAGES.items():
        for level in LEVELS:
            draw = random.Random(0)
            now = clean if not level else moments(metrics, [change(c, level, draw) for c in clips])
            for reference, known in references.items():
                for name in metrics:
                    distance = frechet_distance(now[name], known[name])
                    found[f"{name}, {damage}"][reference].append(distance)
    return found


def main(path: Path) -> None:
    """Measure, print and draw."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(DAMAGES), figsize=(13, 5.5), layout="constrained")
    for axis, (title, lines) in zip(axes.flat, curves().items(), strict=True):
        for reference, values in lines.items():
            print(f"| {title} {reference} |", " | ".join(f"{v:.2f}" for v in values), "|")
            axis.plot(LEVELS, values, marker="o", label=reference)
        axis.set_xlabel(title.split(", ")[1])
        axis.grid(alpha=0.3)
    for row, name in zip(axes, ("FVD", "HD-FVD"), strict=True):
        row[0].set_ylabel(name)
    axes[0][0].legend()
    figure.savefig(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
