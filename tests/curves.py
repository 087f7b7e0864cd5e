"""Draws how FVD grows with damage: run by hand, needs matplotlib.

    python tests/curves.py docs/fvd_curves.svg

Held-out clips of 256x160 are damaged and measured against themselves, clean, with ``tiny-video``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pixelwizard.data import labelled, shapes
from pixelwizard.metrics.frechet import Moments, frechet_distance
from pixelwizard.metrics.names import ASSETS, NETWORKS
from pixelwizard.metrics.networks import VideoNetwork

CLIPS, LEVELS = 72, (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
DAMAGES: dict[str, Callable[[Tensor, float, random.Random], Tensor]] = {
    "blur (deviation up to 3 px)": labelled.blurred,
    "noise (deviation up to 25)": labelled.noisy,
    "shuffled frames (share)": labelled.shuffled,
    "dropped frames (share)": labelled.frozen,
}


def clip(seed: int) -> Tensor:
    """uint8 [16, 3, H, W]."""
    frames = shapes.render(shapes.scene(seed, "heldout"), 256, 160, 16)
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def moments(network: VideoNetwork, clips: list[Tensor]) -> Moments:
    """Of the clips' features, each frame fitted on its own as in an evaluation."""
    fitted = [torch.stack([network.fit(f.permute(1, 2, 0)) for f in clip], 1) for clip in clips]
    return Moments.of(torch.cat([network.features(video[None]) for video in fitted]))


def curves() -> dict[str, list[float]]:
    """FVD at every level of every damage."""
    network = VideoNetwork(NETWORKS["tiny-video"], ASSETS / "video", torch.device("cpu"))
    clips = [clip(seed) for seed in range(CLIPS)]
    reference = moments(network, clips)
    found = {}
    for name, damage in DAMAGES.items():
        found[name] = [frechet_distance(reference, reference)]
        for level in LEVELS[1:]:
            draw = random.Random(0)
            damaged = moments(network, [damage(clip, level, draw) for clip in clips])
            found[name].append(frechet_distance(damaged, reference))
        print(f"| {name} |", " | ".join(f"{value:.2f}" for value in found[name]), "|", flush=True)
    return found


def main(path: Path) -> None:
    """Measure, print and draw."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(DAMAGES), figsize=(13, 3), layout="constrained")
    for axis, (name, values) in zip(axes, curves().items(), strict=True):
        axis.plot(LEVELS, values, marker="o")
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("FVD")
    figure.savefig(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
