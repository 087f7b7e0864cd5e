"""What a refined clip keeps of its source: the colours, or everything that the source shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.data.examples import blur, to_video
from pixelwizard.data.source_files import Source, frames_of
from pixelwizard.models.wan.vae import to_pixels

COLOUR = 3.0
"""Deviation of the blur that leaves only colours, in pixels of an anchor (measure/refine.py)."""
PASSES = 2
"""One leaves 51 to 58 dB between a clip and the reduced video, two 59 to 69 (shapes)."""


def agreeing(
    made: Iterator[np.ndarray], clip: Source, size: ResolutionSettings, agree: str
) -> Iterator[np.ndarray]:
    """The decoded frames of a refined clip with what ``refine.agree`` takes from the clip.

    Raises VideoError if the clip cannot be read to its end.
    """
    shape = size.geometry
    if agree == "none":
        return made
    if agree == "clip":
        return with_details(made, frames_of(clip, clip.own_size(shape), shape))
    return with_colours(made, frames_of(clip, size.anchor_geometry, shape))


def with_colours(made: Iterable[np.ndarray], given: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames ``[1, H, W, 3]``, uint8, whose slow variations become those of the ``given`` frames.

    ``given``, uint8 [h, w, 3], have the anchor's size. The blurred difference is added, as StableSR
    and SeedVR do with the lowest band of a wavelet transform. Gives as many frames as are made.
    """
    taps = 2 * math.ceil(3 * COLOUR) + 1
    for frames, low in zip(made, given, strict=False):
        video = to_video(frames)
        yield _pixels(_lifted(video, blur(_missing(video, low), taps, COLOUR), "bilinear"))


def with_details(made: Iterable[np.ndarray], given: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same at the size of the ``given`` frames: reduced to it, the video is the clip.

    Back-projection: what the reduced frame lacks of the clip's is enlarged and added.
    """
    for frames, low in zip(made, given, strict=False):
        video = to_video(frames)
        for _ in range(PASSES):
            video = _lifted(video, _missing(video, low), "bicubic")
        yield _pixels(video)


def _missing(video: Tensor, low: np.ndarray) -> Tensor:
    """What the reduced video lacks of a frame, [1, 3, 1, h, w]."""
    given = to_video(low[None])
    return given - F.interpolate(video[:, :, 0], given.shape[3:], mode="area")[:, :, None]


def _lifted(video: Tensor, change: Tensor, mode: str) -> Tensor:
    """The video [1, 3, 1, H, W] with a smaller ``change`` enlarged and added."""
    return video + F.interpolate(change[:, :, 0], video.shape[3:], mode=mode)[:, :, None]


def _pixels(video: Tensor) -> np.ndarray:
    """[1, H, W, 3], uint8."""
    return to_pixels(video[0]).numpy()
