"""What a refined clip keeps of its source: the colours, or everything that the source shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.config.geometry import Geometry, ResolutionSettings
from pixelwizard.data.examples import blur, to_video
from pixelwizard.data.source_files import Source, frames_of
from pixelwizard.models.wan.vae import to_pixels

COLOUR = 3.0
"""Deviation of the blur that leaves only colours, in pixels of an anchor (measure/refine.py)."""
PASSES = 2
"""One leaves 51 to 58 dB between a clip and the reduced video, two 59 to 69 (shapes)."""

SHARP = (0.45, 1.4)
"""Sharpness of clips that are neither soft nor noisy (measure/sharpness.py)."""
LOOKED_AT = 8
LUMA = (0.2126, 0.7152, 0.0722)
"""Of ITU-R BT.709."""


def agreement_of(clip: Source, shape: Geometry) -> tuple[str, float]:
    """What ``refine.agree=auto`` means for a clip, and the sharpness that decides it.

    ``clip`` where the clip is smaller than its video, sharp and clean; else ``colour``.
    Raises VideoError if the clip cannot be read to its end.
    """
    own, step = clip.own_size(shape), max(1, clip.frames // LOOKED_AT)
    found = sharpness(islice(frames_of(clip, own, shape), 0, clip.frames, step))
    keeps = own != shape and SHARP[0] <= found <= SHARP[1]
    return ("clip" if keeps else "colour"), found


def sharpness(frames: Iterable[np.ndarray]) -> float:
    """The deviation of luma in the finest octave of frames [H, W, 3], by that in the next coarser.

    About 0.25 in a clip that was enlarged or blurred, 0.5 to 1.36 in a sharp one, 2 in white noise,
    0 where nothing varies.
    """
    power = [0.0, 0.0]
    for frame in frames:
        grey = (torch.from_numpy(frame).float() @ torch.tensor(LUMA))[None, None]
        for octave in range(2):
            half = F.interpolate(grey, [n // 2 for n in grey.shape[2:]], mode="area")
            finest = grey - F.interpolate(half, grey.shape[2:], mode="bicubic")
            power[octave] += float(finest.square().mean())
            grey = half
    return math.sqrt(power[0] / power[1]) if power[1] else 0.0


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
