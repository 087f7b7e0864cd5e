"""The ways in which each stage could run, the roomiest first, each with its traced cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pixelwizard.config.geometry import Tiles
from pixelwizard.config.parallel import Mesh
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.wan.dit import CHUNK
from pixelwizard.planning.decode_cost import Settings, choose_tiles
from pixelwizard.planning.sampling_cost import Cost, Sampling, cost_of_sampling
from pixelwizard.planning.text_cost import cost_of_text

CHUNKS = (CHUNK, CHUNK // 4)


@dataclass(frozen=True)
class ExecutionMode:
    """One way to run a stage."""

    name: str
    tokens: int
    mode: str
    cost: Cost
    chunk: int | None = None
    tiles: Tiles | None = None


def execution_modes(
    stage: str, config: Settings, mesh: Mesh, limit: float
) -> Iterator[ExecutionMode]:
    """How one rank of ``mesh`` could run a stage (text, anchor, detail, decode).

    The decode has only one way in the end: the one that needs at most ``limit`` bytes.
    """
    if stage == "text":
        return _text(config)
    if stage == "decode":
        return _decode(config, mesh, limit)
    return _sampling(stage, config, mesh)


def _text(config: Settings) -> Iterator[ExecutionMode]:
    sizes, length = config.backbone.text, config.backbone.dit.text_len
    dtype = getattr(torch, config.backbone.dtype)
    for mode in _modes(config):
        yield ExecutionMode(
            "text", length, mode, cost_of_text(sizes, length, dtype, mode == "stream")
        )


def _sampling(name: str, config: Settings, mesh: Mesh) -> Iterator[ExecutionMode]:
    """Fewer bytes each: resident before streamed, large chunks before small ones."""
    stage = _stage(name, config, mesh)
    chunks = (config.memory.chunk,) if config.memory.chunk else CHUNKS
    for mode in ("sharded",) if mesh.shards > 1 else _modes(config):
        for chunk in chunks:
            cost = cost_of_sampling(stage, mode == "stream", chunk)
            yield ExecutionMode(name, stage.geometry.tokens, mode, cost, chunk)


def _stage(name: str, config: Settings, mesh: Mesh) -> Sampling:
    size, backbone, detail = config.resolution, config.backbone, name == "detail"
    sampler = config.schedule if detail else config.anchor
    return Sampling(
        sizes=backbone.detail_dit if detail else backbone.dit,
        controlled=len(backbone.control_blocks) if detail else 0,
        geometry=size.geometry if detail else size.anchor_geometry,
        anchor=size.anchor_geometry if detail else None,
        schedule=make_schedule(
            sampler, size.shift if detail else size.anchor_shift, "schedule" if detail else "anchor"
        ),
        guidance=sampler.guidance,
        dtype=getattr(torch, backbone.dtype),
        residual=getattr(torch, config.memory.residual),
        attention=config.attention,
        network=backbone.detail_network,
        mesh=mesh,
    )


def _modes(config: Settings) -> tuple[str, ...]:
    """Where the weights of a network of blocks may be."""
    wanted = config.memory.mode
    return ("resident", "stream") if wanted == "auto" else (wanted,)


def _decode(config: Settings, mesh: Mesh, limit: float) -> Iterator[ExecutionMode]:
    """Whole or in tiles; the autoencoder, no chain of equal blocks, is on the device whole.

    Positions of the latent are to the decode what tokens are to a transformer.
    """
    tiles, cost = choose_tiles(config, limit, mesh.per_prompt)
    cells = math.prod(config.resolution.geometry.latent_grid)
    mode = "offload" if config.memory.mode == "offload" else "resident"
    yield ExecutionMode("decode", cells, mode, cost, tiles=tiles)
