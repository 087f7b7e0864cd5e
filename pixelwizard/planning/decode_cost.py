"""The cost of the decode, whole or in tiles: the real decoder, traced on its largest tile."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain

import torch
from torch import Tensor

from pixelwizard.config.generate import SamplingSettings
from pixelwizard.config.geometry import (
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    WHOLE,
    Geometry,
    Tiles,
    overlap_of,
    part_sizes,
)
from pixelwizard.models.wan.kernels import PLAIN, Kernels
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.parallel.exchange import Peers, RowShard
from pixelwizard.planning.device import META, Trace, Work
from pixelwizard.planning.transformer_cost import Cost
from pixelwizard.stages.decode import allowed, decode_dtype, spans, stream_pixels

FRAMES = 3
"""Frames on the host while they are written: one arrives, one waits, one goes to the encoder."""
TRACED = 3
"""Latent frames that are traced: from the third on, every frame costs the same."""


def choose_tiles(
    config: SamplingSettings, limit: float, ranks: int = 1, kernels: Kernels = PLAIN
) -> tuple[Tiles, Cost]:
    """The fewest tiles that need at most ``limit`` bytes, else the smallest; and their cost.

    Smaller tiles need less, so a bisection finds them. ``ranks`` decode a clip together.
    """
    grids = allowed(config)
    cost = cache(lambda tiles: cost_of_decode(config, tiles, ranks, kernels))

    def fits(tiles: Tiles) -> bool:
        return bool(cost(tiles).peak <= limit)

    place = 0 if fits(grids[0]) else bisect_left(grids, True, hi=len(grids) - 1, key=fits)
    return grids[place], cost(grids[place])


class _Rehearsed(Peers):
    """The busiest of several ranks, traced alone; ``sent``: bytes that it would send."""

    def __init__(self, size: int, height: int) -> None:
        self.size, self.sent = size, 0
        counts = part_sizes(height, size)
        self.rank = max(range(size), key=lambda rank: (counts[rank], 0 < rank < size - 1))

    def exchange(
        self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Sequence[int]], like: Tensor
    ) -> dict[int, Tensor]:
        self.sent += sum(tensor.nbytes for tensor in outgoing.values())
        return {rank: like.new_empty(*shape) for rank, shape in incoming.items()}

    def gather(self, x: Tensor) -> list[Tensor]:
        self.sent += (self.size - 1) * x.nbytes
        return [torch.empty_like(x) for _ in range(self.size)]


def cost_of_decode(
    config: SamplingSettings, tiles: Tiles, ranks: int = 1, kernels: Kernels = PLAIN
) -> Cost:
    """The cost of one clip for the busiest of the ``ranks`` that decode it together.

    ``kernels``: the functions between the convolutions, compiled or not.
    The host holds some frames as uint8, and the clip where tiles take several turns.
    """
    clip, dtype = config.resolution.geometry, decode_dtype(config)
    frames, height, _ = clip.latent_grid
    turns = _turns(clip, tiles, ranks)
    peers = _Rehearsed(len(turns[0]), height)
    rows = RowShard(peers, height) if tiles.count == 1 < peers.size else None
    part = [max(size) for size in zip(*chain(*turns), strict=True)]
    with META:
        vae = WanVAE(config.backbone.vae).to(dtype).lay_out()
    vae.use(kernels)
    weights = sum(weight.nbytes for weight in vae.parameters())
    trace, marks = Trace(), []
    with torch.no_grad(), trace:
        latent = torch.empty(1, vae.sizes.z_dim, *clip.latent_grid, dtype=dtype, device=META)
        for _ in stream_pixels(vae, latent[:, :, :TRACED, : part[0], : part[1]], rows):
            marks.append(replace(trace.work, sent=peers.sent))
    cells = [[rows * columns for rows, columns in turn] for turn in turns]
    work = sum(map(max, cells)) / math.prod(part) * _all_frames(marks, frames)
    host = canvas_bytes(clip, tiles) if len(turns) > 1 else FRAMES * clip.clip_bytes // clip.frames
    return Cost(
        *(weights, weights + trace.peak, work.flops, work.moved),
        sent=Counter(decode=work.sent + strip_bytes(cells, clip.frames)),
        host=host,
        loaded=weights,
    )


def cost_of_encode(config: SamplingSettings, sizes: Sequence[Geometry], window: int) -> Cost:
    """The cost of a clip at several sizes, and of decoding the first of them again.

    A clip of more than ``window`` latent frames goes through in parts, whose overlap is encoded
    twice.
    """
    first = replace(config.resolution, width=sizes[0].width, height=sizes[0].height)
    again = cost_of_decode(replace(config, resolution=first), WHOLE)
    with META:
        vae = WanVAE(config.backbone.vae).to(decode_dtype(config)).lay_out()
    weights, work = again.weights, Work(again.flops, again.moved)
    peak = again.peak - weights
    for size in sizes:
        marks, traced = [], (1 + TEMPORAL_STRIDE, 1 + 2 * TEMPORAL_STRIDE)
        for frames in traced:
            trace, shape = Trace(), (1, 3, 1, size.height, size.width)
            with torch.no_grad(), trace:
                vae.encode_stream(torch.empty(shape, device=META) for _ in range(frames))
            marks.append(trace.work)
            peak = max(peak, trace.peak)
        frames, overlap = size.latent_grid[0], overlap_of(window)
        parts = 1 + max(0, math.ceil((frames - window) / max(1, window - overlap)))
        frames += (parts - 1) * overlap
        work += marks[0] + (frames - 2) * (marks[1] - marks[0])
    host = FRAMES * first.geometry.clip_bytes // first.frames
    return Cost(weights, weights + peak, work.flops, work.moved, host=host, loaded=weights)


def canvas_bytes(clip: Geometry, tiles: Tiles) -> int:
    """The clip as uint8 until its last tile is there, and the upper edges of the rows under way."""
    height = clip.latent_grid[1]
    shared = 2 * tiles.overlap if min(tiles.rows, tiles.columns) > 1 else 0
    return clip.clip_bytes * (height + shared) // height


def strip_bytes(turns: Sequence[Sequence[int]], frames: int) -> int:
    """The decode of a clip: the uint8 pixels of the busiest rank but the first, which writes.

    ``turns``: the latent cells that each rank decodes, as often as they all take another part.
    """
    cells = sum(max(parts[1:], default=0) for parts in turns)
    return 3 * frames * cells * SPATIAL_STRIDE**2


def _turns(clip: Geometry, tiles: Tiles, ranks: int) -> list[list[tuple[int, int]]]:
    """Latent rows and columns of what each rank decodes, for every turn that they take."""
    _, height, width = clip.latent_grid
    if tiles.count == 1:
        counts = part_sizes(height, ranks if ranks <= height else 1)
        return [[(rows, width) for rows in counts]]
    sizes = [
        (row.stop - row.start, column.stop - column.start)
        for row in spans(height, tiles.rows, tiles.overlap)
        for column in spans(width, tiles.columns, tiles.overlap)
    ]
    return [sizes[start : start + ranks] for start in range(0, len(sizes), ranks)]


def _all_frames(marks: Sequence[Work], frames: int) -> Work:
    """What ``frames`` latent frames take; ``marks``: after every traced frame of the video."""
    if frames <= TRACED:
        return marks[-1]
    return marks[-1] + (frames - TRACED) * (marks[-1] - marks[-1 - TEMPORAL_STRIDE])
