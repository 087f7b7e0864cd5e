"""What the decode needs, whole or in tiles: the real decoder, traced on its largest tile."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Union

import torch

from pixelwizard.geometry import TEMPORAL_STRIDE, WHOLE, Geometry, Tiles, most_tiles
from pixelwizard.plan_settings import PlanConfig
from pixelwizard.sampling_cost import META, Cost
from pixelwizard.settings import Config
from pixelwizard.tracing import Trace
from pixelwizard.wan.tiling import spans, stream_pixels
from pixelwizard.wan.vae import WanVAE

TRACED = 3
"""Latent frames that are traced: from the third on, every frame costs the same."""
Settings = Union[Config, PlanConfig]


def choose_tiles(config: Settings, limit: float) -> tuple[Tiles, Cost]:
    """The fewest tiles that need at most ``limit`` bytes, else the smallest; and what they need.

    Smaller tiles need less, so that a bisection finds them.
    """
    grids = allowed(config)
    cost = cache(lambda tiles: cost_of_decode(config, tiles))

    def fits(tiles: Tiles) -> bool:
        return bool(cost(tiles).peak <= limit)

    place = 0 if fits(grids[0]) else bisect_left(grids, True, hi=len(grids) - 1, key=fits)
    return grids[place], cost(grids[place])


def allowed(config: Settings) -> list[Tiles]:
    """The grids of tiles that ``decode.mode`` leaves to choose from, the largest tiles first."""
    decode = config.decode
    if decode.mode == "tiled":
        rows, columns = decode.tiles
        return [Tiles(rows, columns, decode.overlap)]
    if decode.mode == "seamless":
        return [WHOLE]
    return list(candidates(config.resolution.geometry, decode.overlap))


def candidates(geometry: Geometry, overlap: int) -> Iterator[Tiles]:
    """Grids of ever smaller tiles, as square as they can be; the first is the whole frame."""
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


def surely_whole(config: Settings, limit: float) -> bool:
    """Whether the largest tiles allowed need far less than ``limit`` bytes, found without a trace.

    Four frames are counted for each layer, all as wide as the widest and as large as the largest.
    """
    sizes, clip = config.backbone.vae, config.resolution.geometry
    layers = 4 * len(sizes.dim_mult) * (sizes.num_res_blocks + 2)
    frame = sizes.dec_dim * max(sizes.dim_mult) * clip.width * clip.height // 4
    return layers * 4 * frame * precision(config).itemsize <= limit


def precision(config: Settings) -> torch.dtype:
    """The type that the decode computes in."""
    dtype: torch.dtype = getattr(torch, config.decode.dtype or config.backbone.dtype)
    return dtype


def cost_of_decode(config: Settings, tiles: Tiles) -> Cost:
    """The cost of one clip. Tiles also hold the clip as uint8 on the host, which is not in it."""
    grid, dtype = config.resolution.geometry.latent_grid, precision(config)
    heights, widths = (
        [span.stop - span.start for span in spans(cells, count, tiles.overlap)]
        for cells, count in ((grid[1], tiles.rows), (grid[2], tiles.columns))
    )
    with META:
        vae = WanVAE(config.backbone.vae).to(dtype)
    weights = sum(weight.nbytes for weight in vae.parameters())
    trace, marks = Trace(), []
    with torch.no_grad(), trace:
        latent = torch.empty(1, vae.sizes.z_dim, *grid, dtype=dtype, device=META)
        for _ in stream_pixels(vae, latent[:, :, :TRACED, : max(heights), : max(widths)]):
            marks.append((Counter(trace.flops), trace.moved))
    share = sum(heights) * sum(widths) / (max(heights) * max(widths))
    flops, moved = _all_frames(marks, grid[0])
    flops = Counter({kind: int(share * count) for kind, count in flops.items()})
    return Cost(weights, weights + trace.peak, flops, int(share * moved))


def _all_frames(marks: list[tuple[Counter[str], int]], frames: int) -> tuple[Counter[str], int]:
    """Operations and bytes of ``frames`` latent frames; ``marks``: after every traced frame out."""
    flops, moved = marks[-1]
    if frames <= TRACED:
        return flops, moved
    before, moved_before = marks[-1 - TEMPORAL_STRIDE]
    more = frames - TRACED
    return (
        Counter({kind: n + more * (n - before[kind]) for kind, n in flops.items()}),
        moved + more * (moved - moved_before),
    )
