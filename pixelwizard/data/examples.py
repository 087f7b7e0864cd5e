"""Captioned clips as pixels, and the examples that a stage is trained on, made from them.

Clips are uint8 [T, H, W, 3]; videos for the networks are [1, 3, T, H, W], in [-1, 1] as floats.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.config.geometry import Geometry, ResolutionSettings
from pixelwizard.config.train import DegradationSettings

Split = Literal["train", "heldout"]
FRAMES_AT_ONCE = 8


class Unusable(Exception):
    """A clip turned out to be unusable; the text says why."""


class Clips(ABC):
    """Captioned clips of one split by number; ``identity`` is equal for equal clips only."""

    identity: str

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def captions(self, number: int) -> list[str]:
        """The texts of a clip, at least one."""

    @abstractmethod
    def clip(self, number: int, size: Geometry, rng: random.Random) -> np.ndarray:
        """The frames of a clip. Raises Unusable."""


@dataclass(frozen=True)
class Recipe:
    """How examples are made from clips: network, sizes, seed."""

    part: str
    size: ResolutionSettings
    degradation: DegradationSettings
    seed: int


def example(clips: Clips, number: int, recipe: Recipe, rng: random.Random) -> dict[str, Tensor]:
    """``video``, uint8 [1, 3, T, H, W], for the detail network with its anchor ``small``, float32.

    Raises Unusable.
    """
    size = recipe.size.anchor_geometry if recipe.part == "anchor" else recipe.size.geometry
    clip = clips.clip(number, size, rng)
    video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
    if recipe.part == "anchor":
        return {"video": video}
    small = degraded(video, recipe.size.anchor_geometry, recipe.degradation, rng)
    return {"video": video, "small": small}


def to_video(clip: np.ndarray) -> Tensor:
    """uint8 [T, H, W, 3] -> float32 [1, 3, T, H, W] in [-1, 1]."""
    return as_float(torch.from_numpy(clip).permute(3, 0, 1, 2)[None])


def as_float(video: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels -> [-1, 1]; floats pass unchanged."""
    return video.to(dtype) / 127.5 - 1 if video.dtype == torch.uint8 else video.to(dtype)


def degraded(
    video: Tensor, size: Geometry, rule: DegradationSettings, rng: random.Random
) -> Tensor:
    """The anchor of a video [1, 3, T, H, W]: smaller and blurred, as ``rule`` says; float32.

    A few frames at a time become floats.
    """
    height, width = least = size.height, size.width
    if rule.shrink:
        factor = rng.uniform(*rule.shrink)
        least = (max(1, round(video.shape[3] / factor)), max(1, round(video.shape[4] / factor)))
    groups = video.split(FRAMES_AT_ONCE, dim=2)
    small = torch.cat([resized(as_float(group), least, "area") for group in groups], dim=2)
    if least != (height, width):
        small = resized(small, (height, width), "bilinear")
    if rng.random() >= rule.blurred:
        return small
    return blur(small, rng.choice(rule.kernels), rng.uniform(*rule.deviation))


def shrink(video: Tensor, size: Geometry) -> Tensor:
    """The video [1, 3, T, H, W] at the size of an anchor, by area."""
    return resized(video, (size.height, size.width), "area")


def resized(video: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Every frame of [1, 3, T, H, W] at another height and width."""
    return F.interpolate(video[0].transpose(0, 1), size, mode=mode).transpose(0, 1)[None]


def blur(video: Tensor, taps: int, deviation: float) -> Tensor:
    """Every frame of [1, 3, T, H, W] blurred by a Gaussian of that deviation in pixels."""
    reach = taps // 2
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    frames = F.pad(video[0].transpose(0, 1), (reach,) * 4, mode="replicate")
    frames = F.conv2d(F.conv2d(frames, kernel, groups=3), kernel.mT, groups=3)
    return frames.transpose(0, 1)[None]
