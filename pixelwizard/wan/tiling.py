"""Decoding in strips over the width: less memory, blended where the strips overlap.

Each strip sees ``overlap`` latent columns of its neighbours, and cosine ramps in pixel space mix
the two versions there (PixelWizard ``decode.py``). The blend is close to the whole-frame decode,
not equal to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pixelwizard.geometry import SPATIAL_STRIDE
from pixelwizard.wan.vae import WanVAE


@dataclass(frozen=True)
class Strip:
    """Latent columns ``start`` to ``stop``; the strip before has the first ``shared`` too."""

    start: int
    stop: int
    shared: int


def strips(columns: int, count: int, overlap: int) -> list[Strip]:
    """Splits latent columns evenly; raises ValueError where three strips would overlap."""
    if count > 1 and columns // count < 2 * overlap:
        most = max(1, columns // (2 * overlap))
        raise ValueError(
            f"{count} decode tiles are too many for {columns} latent columns with an overlap of"
            f" {overlap}; use at most {most}"
        )
    cuts = [round(index * columns / count) for index in range(count + 1)]
    return [
        Strip(max(0, low - overlap), min(columns, high + overlap), 2 * overlap if low else 0)
        for low, high in zip(cuts, cuts[1:], strict=False)
    ]


def to_frames(video_3THW: Tensor) -> np.ndarray:
    """[-1, 1], clamped, -> uint8 ``[T, H, W, 3]``."""
    pixels = ((video_3THW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()


def stream_frames(vae: WanVAE, latent_BCTHW: Tensor) -> Iterator[np.ndarray]:
    """Whole frames of one clip as uint8 ``[t, H, W, 3]``, in order of time."""
    for chunk in vae.decode_stream(latent_BCTHW):
        yield to_frames(chunk[0])


def tiled_frames(vae: WanVAE, latent_BCTHW: Tensor, count: int, overlap: int) -> np.ndarray:
    """The clip of one latent as uint8 ``[T, H, W, 3]``, decoded strip by strip."""
    canvas: np.ndarray | None = None
    for strip in strips(latent_BCTHW.shape[-1], count, overlap):
        parts = stream_frames(vae, latent_BCTHW[..., strip.start : strip.stop])
        clip = np.concatenate(list(parts))
        if canvas is None:
            width = latent_BCTHW.shape[-1] * SPATIAL_STRIDE
            canvas = np.empty((*clip.shape[:2], width, 3), np.uint8)
        _blend(canvas[:, :, strip.start * SPATIAL_STRIDE :], clip, strip.shared * SPATIAL_STRIDE)
    assert canvas is not None
    return canvas


def _blend(canvas: np.ndarray, clip: np.ndarray, shared: int) -> None:
    """Writes a strip, mixing its first ``shared`` columns with those already on the canvas."""
    width = clip.shape[2]
    canvas[:, :, shared:width] = clip[:, :, shared:]
    phase = (np.arange(shared, dtype=np.float32) + np.float32(0.5)) / np.float32(max(shared, 1))
    ramp = (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)[:, None]
    for frame, new in zip(canvas, clip, strict=True):
        mixed = frame[:, :shared] * (1 - ramp) + new[:, :shared] * ramp
        frame[:, :shared] = np.rint(mixed)
