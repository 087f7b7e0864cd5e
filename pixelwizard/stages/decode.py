"""Last stage: a latent becomes frames, whole or in tiles, in one process or several.

Tiles need less memory. Each sees ``overlap`` latent rows and columns of its neighbours, and cosine
ramps in pixel space blend the two versions (as PixelWizard's ``decode.py`` does along the
width only). The blend is close to the decode of whole frames but not equal, as a frame's pixels
depend on its whole latent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pixelwizard.config.generate import SamplingSettings
from pixelwizard.config.geometry import (
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    WHOLE,
    Geometry,
    Tiles,
    cuts,
    most_tiles,
)
from pixelwizard.models.wan.vae import WanVAE, to_pixels

if TYPE_CHECKING:
    from pixelwizard.parallel.exchange import Peers, RowShard


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

    @property
    def size(self) -> int:
        """How many pixels these are."""
        return self.pixels.stop - self.pixels.start


def spans(cells: int, count: int, overlap: int) -> list[Span]:
    """Splits latent rows or columns evenly."""
    return [
        Span(max(0, low - overlap), min(cells, high + overlap), 2 * overlap if low else 0)
        for low, high in pairwise(cuts(cells, count))
    ]


def stream_pixels(
    vae: WanVAE, latent_BCTHW: Tensor, rows: RowShard | None = None
) -> Iterator[Tensor]:
    """Frames of one clip (with ``rows`` those of this rank) as uint8 ``[H, W, 3]``, in order."""
    return map(lambda frame: to_pixels(frame[0])[0], vae.decode_stream(latent_BCTHW, rows))


def whole_frames(
    vae: WanVAE, latent_BCTHW: Tensor, peers: Peers | None = None
) -> Iterator[np.ndarray]:
    """Frames of one clip as uint8 ``[H, W, 3]``, in order of time, for the rank that writes.

    Each rank decodes some of the rows; of a latent that has fewer rows than ranks, one decodes all.
    """
    height, width = latent_BCTHW.shape[3:]
    if peers is None or peers.size > height:
        if peers is None or peers.writes:
            yield from map(_on_host, stream_pixels(vae, latent_BCTHW))
        return
    rows = peers.rows(height)
    latent = latent_BCTHW[..., rows.own, :]
    shapes = [(SPATIAL_STRIDE * count, SPATIAL_STRIDE * width, 3) for count in rows.counts]
    for strips in _collected(stream_pixels(vae, latent, rows), shapes, peers):
        yield np.concatenate(strips)


def tiled_frames(
    vae: WanVAE, latent_BCTHW: Tensor, tiles: Tiles, peers: Peers | None = None
) -> Iterator[np.ndarray]:
    """The same in tiles, as many at a time as there are ranks.

    Where that takes several turns, the rank that writes holds the clip until the last one.
    """
    height, width = latent_BCTHW.shape[3:]
    places = [
        (row, column)
        for row in spans(height, tiles.rows, tiles.overlap)
        for column in spans(width, tiles.columns, tiles.overlap)
    ]
    canvas, ranks = _Canvas(height, width), peers.size if peers else 1
    for start in range(0, len(places), ranks):
        turn = places[start : start + ranks]
        for t, parts in enumerate(_turn(vae, latent_BCTHW, turn, peers)):
            for place, pixels in zip(turn, parts, strict=True):
                canvas.paint(t, *place, pixels)
            if turn[-1] == places[-1]:
                yield canvas.frames.pop(t)


def _turn(
    vae: WanVAE, latent_BCTHW: Tensor, places: Sequence[tuple[Span, Span]], peers: Peers | None
) -> Iterator[list[np.ndarray]]:
    """For the rank that writes, each frame's tiles at the ``places``, one decoded by each rank."""
    shapes = [(row.size, column.size, 3) for row, column in places]
    rank = peers.rank if peers else 0
    if rank < len(places):
        row, column = places[rank]
        tile = latent_BCTHW[..., row.start : row.stop, column.start : column.stop]
        decoded = stream_pixels(vae, tile)
    else:
        frames = (latent_BCTHW.shape[2] - 1) * TEMPORAL_STRIDE + 1
        decoded = iter([latent_BCTHW.new_empty(0, dtype=torch.uint8)] * frames)
    return _collected(decoded, shapes, peers)


def _collected(
    pixels: Iterator[Tensor], shapes: Sequence[Sequence[int]], peers: Peers | None
) -> Iterator[list[np.ndarray]]:
    """For the rank that writes, what each rank has of every frame, on the host.

    Nothing of a frame is left on the device when the next one is asked for.
    """
    if peers is None:
        return map(lambda own: [_on_host(own)], pixels)
    parts = map(lambda own: peers.collect(own, shapes), pixels)
    return map(lambda found: [*map(_on_host, found)], filter(None, parts))


def _on_host(pixels: Tensor) -> np.ndarray:
    return pixels.cpu().numpy()


class _Canvas:
    """Frames of tiles that are painted row by row, from the upper left corner.

    A row is blended along the width, its upper edge in a separate buffer, which is blended into
    the row above when it is complete. So four tiles that meet share a corner by the product of
    their ramps.
    """

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height * SPATIAL_STRIDE, width * SPATIAL_STRIDE, 3)
        self.frames: dict[int, np.ndarray] = {}
        self.edges: dict[int, np.ndarray] = {}

    def paint(self, t: int, row: Span, column: Span, tile: np.ndarray) -> None:
        """Add the next tile of frame ``t``."""
        if t not in self.frames:
            self.frames[t] = np.empty(self.shape, np.uint8)
        band, shared = self.frames[t][row.pixels], row.shared * SPATIAL_STRIDE
        if column.start == 0:
            self.edges[t] = np.empty((shared, *band.shape[1:]), np.uint8)
        ramp = column.shared * SPATIAL_STRIDE
        _blend(self.edges[t][:, column.pixels], tile[:shared], ramp, axis=1)
        _blend(band[shared:, column.pixels], tile[shared:], ramp, axis=1)
        if column.pixels.stop == band.shape[1]:
            _blend(band[:shared], self.edges.pop(t), shared, axis=0)


def _blend(old: np.ndarray, new: np.ndarray, shared: int, axis: int) -> None:
    """Replaces ``old`` by ``new``, smoothly over the first ``shared`` pixels along ``axis``."""
    old, new = np.moveaxis(old, axis, 0), np.moveaxis(new, axis, 0)
    old[shared:] = new[shared:]
    phase = (np.arange(shared, dtype=np.float32) + np.float32(0.5)) / np.float32(max(shared, 1))
    ramp = (0.5 - 0.5 * np.cos(np.pi * phase)).astype(np.float32)[:, None, None]
    old[:shared] = np.rint(old[:shared] * (1 - ramp) + new[:shared] * ramp)


def allowed(config: SamplingSettings) -> list[Tiles]:
    """The grids of tiles that ``decode.mode`` allows, the largest tiles first."""
    decode = config.decode
    if decode.mode == "tiled":
        rows, columns = decode.tiles
        return [Tiles(rows, columns, decode.overlap)]
    if decode.mode == "seamless":
        return [WHOLE]
    return list(candidates(config.resolution.geometry, decode.overlap))


def candidates(geometry: Geometry, overlap: int) -> Iterator[Tiles]:
    """Grids of decreasing tiles, as square as possible; the first is the whole frame."""
    _, height, width = geometry.latent_grid
    rows, columns = 1, 1
    most = most_tiles(height, overlap), most_tiles(width, overlap)
    while True:
        yield WHOLE if rows * columns == 1 else Tiles(rows, columns, overlap)
        wide = width / columns >= height / rows
        if columns < most[1] and (wide or rows == most[0]):
            columns += 1
        elif rows < most[0]:
            rows += 1
        else:
            return


def surely_whole(config: SamplingSettings, limit: float) -> bool:
    """Whether the largest tiles allowed need far less than ``limit`` bytes, found without a trace.

    Four frames are counted for each layer, all as wide as the widest and as large as the largest.
    """
    sizes, clip = config.backbone.vae, config.resolution.geometry
    layers = 4 * len(sizes.dim_mult) * (sizes.num_res_blocks + 2)
    frame = sizes.dec_dim * max(sizes.dim_mult) * clip.width * clip.height // 4
    return layers * 4 * frame * decode_dtype(config).itemsize <= limit


def decode_dtype(config: SamplingSettings) -> torch.dtype:
    """The data type of the decode."""
    return getattr(torch, config.decode.dtype or config.backbone.dtype)


class Decode:
    """Decodes whole frames (seamless, exact), or in ``tiles`` that are blended.

    Either way memory does not grow with the number of frames on the device of the networks. Whole
    frames leave as they are made; tiles need less for a frame, but keep the clip as uint8 on the
    host until the last tile is blended in, unless every tile has its own rank.

    Several ``peers`` decode a clip together: rows of whole frames, or a tile each. The frames are
    those of one process and come out of the rank that writes; the others give none, and must be
    exhausted all the same, as every rank waits for the others.

    ``timed``: on a GPU each shape's fastest algorithm of the convolutions is found by time.
    """

    def __init__(
        self, vae: WanVAE, tiles: Tiles = WHOLE, peers: Peers | None = None, timed: bool = True
    ) -> None:
        self.vae, self.tiles, self.peers, self.timed = vae, tiles, peers, timed

    @torch.no_grad()
    def __call__(self, latent_CTHW: Tensor) -> Iterator[np.ndarray]:
        """Normalised latent -> frames ``[1, H, W, 3]``, uint8 RGB."""
        weight = next(self.vae.parameters())
        latent = latent_CTHW.unsqueeze(0).to(weight.device, weight.dtype)
        tiles = self.tiles.within(*latent.shape[3:])
        if tiles.count == 1:
            frames = whole_frames(self.vae, latent, self.peers)
        else:
            frames = tiled_frames(self.vae, latent, tiles, self.peers)
        with fastest_convolutions() if self.timed else nullcontext():
            for frame in frames:
                yield frame[None]


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """A context in which cuDNN times its algorithms at the first call of every shape.

    Where only deterministic algorithms are asked for, nothing is timed.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = before or not cudnn.deterministic
    try:
        yield
    finally:
        cudnn.benchmark = before
