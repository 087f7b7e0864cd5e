"""Procedural clips with labels, for the training of feature networks.

Clips are small, stretched to squares and uint8. Everything is drawn from (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import IterableDataset

from pixelwizard.data import shapes

HEIGHTS = (80, 80, 80, 160)
ASPECT = 1.6
"""Sizes of the rendered frames before they are stretched, in equal parts."""
MOST_BLUR, MOST_NOISE = 3.0, 25.0
"""Standard deviations at strength 1: of the blur in pixels of the square, of the noise in 0..255.
"""
_SEEDS = 2**40

Batch = dict[str, object]
Maker = Callable[[Random, str], Batch]
"""Makes the batch of a step from random numbers, of a split."""


class LabelledBatches(IterableDataset[Batch]):
    """Endless batches, from ``first_step`` on; ``make(rng, split)`` makes the batch of a step."""

    def __init__(self, make: Maker, seed: int, first_step: int) -> None:
        self.make, self.seed, self.first_step = make, seed, first_step

    def __iter__(self) -> Iterator[Batch]:
        for step in count(self.first_step):
            yield {**self.make(Random(f"{self.seed} {step}"), "train"), "step": step}


def held_out(make: Maker, batches: int) -> list[Batch]:
    """Batches of held-out captions, always the same."""
    return [{**make(Random(f"held out {i}"), "heldout"), "step": i} for i in range(batches)]


@dataclass(frozen=True)
class CaptionedFrames:
    """Makes ``image`` uint8 [B, 3, S, S], a frame of each clip, and ``caption``, a text each."""

    batch: int
    side: int

    def __call__(self, rng: Random, split: str) -> Batch:
        scenes = [shapes.scene(rng.randrange(_SEEDS), split) for _ in range(self.batch)]
        frames = [_still(scene, rng.random(), rng.choice(HEIGHTS)) for scene in scenes]
        image = torch.cat([stretched(frame, self.side) for frame in frames])
        return {"image": image, "caption": [shapes.caption(scene) for scene in scenes]}


@dataclass(frozen=True)
class LabelledClips:
    """Makes ``video`` uint8 [B, 3, T, S, S] and what it shows: four labels, six places, damages.

    ``slots`` [B, 4]: the numbers of colour, shape, motion, background; ``places`` [B, 6] in 0..1:
    radius, x, y, each at the first and last moment; ``damage`` [B, 4]: the strength in 0..1 of
    blur, noise, shuffled frames and frozen frames. The second half of a batch are the clips of the
    first, each with one damage.
    """

    batch: int
    side: int
    frames: int

    def __call__(self, rng: Random, split: str) -> Batch:
        scenes = [shapes.scene(rng.randrange(_SEEDS), split) for _ in range(self.batch // 2)]
        clean = [self._clip(scene, rng.choice(HEIGHTS)) for scene in scenes]
        kinds = [rng.randrange(len(_DAMAGE)) for _ in scenes]
        strengths = [rng.random() for _ in scenes]
        damaged = [
            _DAMAGE[kind](clip, strength, rng)
            for clip, kind, strength in zip(clean, kinds, strengths, strict=True)
        ]
        damage = torch.zeros(2 * len(scenes), len(_DAMAGE))
        damage[range(len(scenes), 2 * len(scenes)), kinds] = torch.tensor(strengths)
        return {
            "video": torch.stack(clean + damaged).transpose(1, 2),
            "slots": torch.tensor([_slots(scene) for scene in scenes]).repeat(2, 1),
            "places": torch.tensor([(*s.radius, *s.x, *s.y) for s in scenes]).repeat(2, 1),
            "damage": damage,
        }

    def _clip(self, scene: shapes.Scene, height: int) -> Tensor:
        """uint8 [T, 3, S, S]."""
        clip = shapes.render(scene, round(height * ASPECT), height, self.frames)
        return stretched(clip, self.side)


def stretched(frames_THWC: np.ndarray, side: int) -> Tensor:
    """uint8 [T, H, W, 3] -> uint8 [T, 3, side, side], averaged over areas."""
    frames = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).float()
    return interpolate(frames, (side, side), mode="area").round().to(torch.uint8)


def blurred(video_TCHW: Tensor, strength: float, rng: Random) -> Tensor:
    """Every frame under a Gaussian."""
    sigma = max(MOST_BLUR * strength, 1e-3)
    reach = torch.arange(-9, 10, dtype=torch.float32)
    kernel = torch.softmax(-reach.square() / (2 * sigma**2), 0)
    channels = video_TCHW.shape[1]
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    padded = torch.nn.functional.pad(video_TCHW.float(), (9, 9, 9, 9), mode="replicate")
    video = torch.nn.functional.conv2d(padded, rows, groups=channels)
    video = torch.nn.functional.conv2d(video, rows.transpose(2, 3), groups=channels)
    return video.round().to(torch.uint8)


def noisy(video_TCHW: Tensor, strength: float, rng: Random) -> Tensor:
    """Independent Gaussian noise on every value."""
    generator = torch.Generator().manual_seed(rng.randrange(_SEEDS))
    noise = torch.randn(video_TCHW.shape, generator=generator) * MOST_NOISE * strength
    return (video_TCHW + noise).round().clamp(0, 255).to(torch.uint8)


def shuffled(video_TCHW: Tensor, strength: float, rng: Random) -> Tensor:
    """A share of the frames in another order among themselves."""
    frames = len(video_TCHW)
    chosen = rng.sample(range(frames), max(2, round(strength * frames)))
    order = list(range(frames))
    for place, frame in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        order[place] = frame
    return video_TCHW[order]


def frozen(video_TCHW: Tensor, strength: float, rng: Random) -> Tensor:
    """A share of the frames replaced by the one before."""
    frames = len(video_TCHW)
    held = set(rng.sample(range(1, frames), round(strength * (frames - 1))))
    order: list[int] = []
    for frame in range(frames):
        order.append(order[-1] if frame in held else frame)
    return video_TCHW[order]


_DAMAGE = (blurred, noisy, shuffled, frozen)


def _slots(scene: shapes.Scene) -> tuple[int, int, int, int]:
    return (
        list(shapes.COLOURS).index(scene.colour),
        shapes.SHAPES.index(scene.shape),
        shapes.MOTIONS.index(scene.motion),
        list(shapes.BACKGROUNDS).index(scene.background),
    )


def _still(scene: shapes.Scene, moment: float, height: int) -> np.ndarray:
    """One frame of a scene, uint8 [1, H, W, 3], at a moment in 0..1."""
    (r0, r1), (x0, x1), (y0, y1) = scene.radius, scene.x, scene.y
    radius, x, y = r0 + (r1 - r0) * moment, x0 + (x1 - x0) * moment, y0 + (y1 - y0) * moment
    still = replace(scene, radius=(radius, radius), x=(x, x), y=(y, y))
    return shapes.render(still, round(height * ASPECT), height, 1)
