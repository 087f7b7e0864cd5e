"""What the autoencoder's training has of the procedural clips: random crops, and statistics.

Three in four crops show the object's edge. Some have the video's size, some the anchor's. Half of
the latter are degraded like the anchors in the detail network's training: the autoencoder must
reconstruct blur as blur.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.train import TrainConfig
from pixelwizard.data import shapes
from pixelwizard.data.batches import steps
from pixelwizard.data.examples import degraded, to_video
from pixelwizard.models.wan.vae import WanVAE, to_pixels

EDGE_SHARE = 0.75
RADII = (0.5, 1.15)
"""Least and greatest distance of an edge crop's centre from the object's, in radii."""


def clip_of(config: TrainConfig, seed: int, split: str) -> tuple[shapes.Scene, np.ndarray]:
    """A scene and its clip, uint8 [T, H, W, 3], of the kind that the seed says."""
    scene, size = shapes.scene(seed, split), config.resolution
    chance, share = random.Random(f"kind {seed}").random(), config.data.anchor_share
    geometry = size.anchor_geometry if chance < share / 2 else size.geometry
    clip = shapes.render(scene, geometry.width, geometry.height, geometry.frames)
    if not share / 2 <= chance < share:
        return scene, clip
    video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
    rule, how = config.data.degradation, random.Random(f"degraded {seed}")
    return scene, to_pixels(degraded(video, size.anchor_geometry, rule, how)[0]).numpy()


def crops_of(config: TrainConfig, seed: int, split: str) -> list[np.ndarray]:
    """Crops, uint8 [T, S, S, 3], of a clip."""
    side, length = config.data.crop, config.data.crop_frames
    scene, clip = clip_of(config, seed, split)
    rng, (frames, height, width) = random.Random(seed), clip.shape[:3]
    crops = []
    for _ in range(config.data.crops):
        first = rng.randrange(frames - length + 1)
        left, top = rng.randrange(width - side + 1), rng.randrange(height - side + 1)
        if rng.random() < EDGE_SHARE:
            moment = (first + rng.randrange(length)) / max(frames - 1, 1)
            x, y, radius = shapes.placement(scene, width / height, moment)
            angle, distance = rng.uniform(0, 2 * math.pi), radius * rng.uniform(*RADII)
            left = round((x + distance * math.cos(angle)) * height - side / 2)
            top = round((y + distance * math.sin(angle)) * height - side / 2)
            left = min(max(left, 0), width - side)
            top = min(max(top, 0), height - side)
        crops.append(clip[first : first + length, top : top + side, left : left + side].copy())
    return crops


class CropBatches(IterableDataset):
    """Endless batches of crops; the batch of a step depends on the seed and the step alone.

    Each step draws from the crops of the latest ``data.window`` clips, a window that moves on by
    as many clips per step as replace a batch. Several workers of a loader take the steps in turn.
    """

    def __init__(self, config: TrainConfig, first_step: int) -> None:
        self.config = config
        self.first_step = first_step

    def __iter__(self) -> Iterator[dict[str, object]]:
        window: dict[int, list[np.ndarray]] = {}
        data, batch = self.config.data, self.config.objective.batch
        for step in steps(self.first_step):
            first = step * batch // data.crops
            seeds = range(first, first + data.window)
            kept = {seed: window.get(seed) for seed in seeds}
            window = {seed: c or crops_of(self.config, seed, "train") for seed, c in kept.items()}
            rng = random.Random(f"{self.config.seed} {step}")
            picks = [rng.choice(window[rng.choice(seeds)]) for _ in range(batch)]
            yield {"video": stacked(picks), "step": step}


def held_out_crops(config: TrainConfig) -> list[dict[str, object]]:
    """Batches of crops of held-out clips, always the same."""
    crops = [c for seed in range(config.data.held_out) for c in crops_of(config, seed, "heldout")]
    size = config.objective.batch
    return [{"video": stacked(crops[i : i + size]), "step": i} for i in range(0, len(crops), size)]


def stacked(crops: list[np.ndarray]) -> Tensor:
    """uint8 [B, 3, T, H, W]."""
    return torch.from_numpy(np.stack(crops)).permute(0, 4, 1, 2, 3)


CLIPS = 24
"""Two at the anchor's size for every one at the video's."""
FIRST_SCENE = 2_000_000


@torch.inference_mode()
def latent_statistics(vae: WanVAE, size: ResolutionSettings) -> tuple[list[float], list[float]]:
    """Mean and scale of every latent channel: ``latent_mean`` and ``latent_std`` of a backbone.

    Whitening (scale = deviation) gives a channel with little effect on the pixels the same share
    of a diffusion loss as one that carries the picture. The encoder's posterior deviation tells how
    precisely the pixels need a channel: deviation / posterior deviation is the channel's
    signal-to-noise ratio, its importance. Dividing by the posterior deviation alone would weight
    fully by importance, and unimportant channels would be small compared to the noise at nearly
    every time. The scale is a compromise: the geometric mean of both deviations, times
    one factor for all channels that brings the root mean square of the normalised latent to 1.
    """
    device = next(vae.parameters()).device
    moments = [vae.moments(video.to(device)) for video in _videos(size)]
    mean = torch.cat([m[0].flatten(1) for m, _ in moments], dim=1)  # [C, everything else]
    variance = torch.cat([v[0].flatten(1) for _, v in moments], dim=1).clamp(-12, 6).exp()
    deviation = mean.std(dim=1)
    scale = (deviation * variance.mean(dim=1).sqrt()).sqrt()
    scale *= (deviation / scale).square().mean().sqrt()
    return mean.mean(dim=1).tolist(), scale.tolist()


def _videos(size: ResolutionSettings) -> Iterator[Tensor]:
    for number in range(CLIPS):
        clip = size.geometry if number % 3 == 0 else size.anchor_geometry
        scene = shapes.scene(FIRST_SCENE + 7 * number)
        yield to_video(shapes.render(scene, clip.width, clip.height, clip.frames))
