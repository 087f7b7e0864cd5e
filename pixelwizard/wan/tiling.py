"""Decoding in tiles over height and width: less memory, blended where the tiles overlap.

Each tile sees ``overlap`` latent rows and columns of its neighbours, and cosine ramps in pixel
space mix the two versions there (PixelWizard ``decode.py``, which cuts along the width alone). The
blend is close to the decode of whole frames, not equal to it: a frame's pixels depend on all of
its latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pixelwizard.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE, Tiles
from pixelwizard.wan.vae import WanVAE


@dataclass(frozen=True)
class Span:
    """Latent rows or columns ``start`` to ``stop``; the tile before shares the first ``shared``."""

    start: int
    stop: int
    shared: int

    @property
    def pixels(self) -> slice:
        """The same in pixels."""
        return slice(self.start * SPATIAL_STRIDE, self.stop * SPATIAL_STRIDE)


def spans(cells: int, count: int, overlap: int) -> list[Span]:
    """Splits latent rows or columns evenly."""
    cuts = [round(index * cells / count) for index in range(count + 1)]
    return [
        Span(max(0, low - overlap), min(cells, high + overlap), 2 * overlap if low else 0)
        for low, high in zip(cuts, cuts[1:], strict=False)
    ]


def to_pixels(video_3THW: Tensor) -> Tensor:
    """[-1, 1], clamped, -> uint8 ``[T, H, W, 3]``."""
    pixels = video_3THW.float().clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous()


def to_frames(video_3THW: Tensor) -> np.ndarray:
    """[-1, 1], clamped, -> uint8 ``[T, H, W, 3]`` on the host."""
    return to_pixels(video_3THW).cpu().numpy()


def stream_pixels(vae: WanVAE, latent_BCTHW: Tensor) -> Iterator[Tensor]:
    """Whole frames of one clip as uint8 ``[1, H, W, 3]``, in order of time."""
    return map(lambda frame: to_pixels(frame[0]), vae.decode_stream(latent_BCTHW))


def stream_frames(vae: WanVAE, latent_BCTHW: Tensor) -> Iterator[np.ndarray]:
    """The same on the host."""
    for pixels in stream_pixels(vae, latent_BCTHW):
        yield pixels.cpu().numpy()


def tiled_frames(vae: WanVAE, latent_BCTHW: Tensor, tiles: Tiles) -> np.ndarray:
    """The clip of one latent as uint8 ``[T, H, W, 3]``, decoded tile by tile.

    A row of tiles is blended along the width as its frames come, its upper edge in a buffer of its
    own; that is then blended into the row above. So four tiles that meet share a corner by the
    product of their ramps, and nothing larger than the clip is ever held.
    """
    times, height, width = latent_BCTHW.shape[2:]
    frames = (times - 1) * TEMPORAL_STRIDE + 1
    canvas = np.empty((frames, height * SPATIAL_STRIDE, width * SPATIAL_STRIDE, 3), np.uint8)
    for row in spans(height, tiles.rows, tiles.overlap):
        band, edge = canvas[:, row.pixels], row.shared * SPATIAL_STRIDE
        seam = np.empty((frames, edge, *canvas.shape[2:]), np.uint8)
        for column in spans(width, tiles.columns, tiles.overlap):
            latent = latent_BCTHW[..., row.start : row.stop, column.start : column.stop]
            shared = column.shared * SPATIAL_STRIDE
            for t, (tile,) in enumerate(stream_frames(vae, latent)):
                _blend(seam[t, :, column.pixels], tile[:edge], shared, axis=1)
                _blend(band[t, edge:, column.pixels], tile[edge:], shared, axis=1)
        for above, below in zip(band, seam, strict=True):
            _blend(above[:edge], below, edge, axis=0)
    return canvas


def _blend(old: np.ndarray, new: np.ndarray, shared: int, axis: int) -> None:
    """Replaces ``old`` by ``new``, smoothly over the first ``shared`` pixels along ``axis``."""
    old, new = np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0)
    old[shared:] = new[shared:]
    phase = (np.arange(shared, dtype=np.float32) + np.float32(0.5)) / np.float32(max(shared, 1))
    ramp = (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)[:, None, None]
    old[:shared] = np.rint(old[:shared] * (1 - ramp) + new[:shared] * ramp)
