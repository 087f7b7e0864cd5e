"""The ways in which each stage could run, the roomiest first, each with its traced cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pixelwizard.config.geometry import Geometry, Tiles
from pixelwizard.config.parallel import Mesh
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.wan.dit import CHUNK
from pixelwizard.planning.decode_cost import Settings, choose_tiles
from pixelwizard.planning.sampling_cost import Cost, Sampling, cost_of_sampling
from pixelwizard.planning.text_cost import cost_of_text

CHUNKS = (CHUNK, CHUNK // 4)


@dataclass(frozen=True)
class Way:
    """One way to run a stage."""

    name: str
    tokens: int
    mode: str
    cost: Cost
    chunk: int | None = None
    tiles: Tiles | None = None


def ways(stage: str, config: Settings, mesh: Mesh, limit: float) -> Iterator[Way]:
    """How one rank of ``mesh`` could run a stage (text, anchor, detail, decode).

    The decode has only one way in the end: the one that needs at most ``limit`` bytes.
    """
    if stage == "text":
        return _text(config)
    if stage == "decode":
        return _decode(config, mesh, limit)
    return _sampling(stage, config, (_anchor if stage == "anchor" else _detail)(config, mesh))


def _text(config: Settings) -> Iterator[Way]:
    backbone = config.backbone
    for mode in _modes(config):
        cost = cost_of_text(
            *(backbone.text, backbone.dit.text_len, getattr(torch, backbone.dtype)),
            mode == "stream",
        )
        yield Way("text", backbone.dit.text_len, mode, cost)


def _anchor(config: Settings, mesh: Mesh) -> Sampling:
    size = config.resolution
    return Sampling(
        sizes=config.backbone.dit,
        controlled=0,
        geometry=size.anchor_geometry,
        anchor=None,
        schedule=make_schedule(config.anchor, size.anchor_shift, "anchor"),
        guidance=config.anchor.guidance,
        dtype=getattr(torch, config.backbone.dtype),
        residual=getattr(torch, config.memory.residual),
        attention=config.attention,
        mesh=mesh,
    )


def _detail(config: Settings, mesh: Mesh) -> Sampling:
    size = config.resolution
    return Sampling(
        sizes=config.backbone.detail_dit,
        controlled=len(config.backbone.control_blocks),
        geometry=size.geometry,
        anchor=size.anchor_geometry,
        schedule=make_schedule(config.schedule, size.shift),
        guidance=config.schedule.guidance,
        dtype=getattr(torch, config.backbone.dtype),
        residual=getattr(torch, config.memory.residual),
        attention=config.attention,
        mesh=mesh,
    )


def _sampling(name: str, config: Settings, stage: Sampling) -> Iterator[Way]:
    """Fewer bytes each: resident before streamed, large chunks before small ones."""
    chunks = (config.memory.chunk,) if config.memory.chunk else CHUNKS
    for mode in ("sharded",) if stage.mesh.shards > 1 else _modes(config):
        for chunk in chunks:
            cost = cost_of_sampling(stage, mode == "stream", chunk)
            yield Way(name, stage.geometry.tokens, mode, cost, chunk)


def _modes(config: Settings) -> tuple[str, ...]:
    """Where the weights of a network of blocks may be."""
    wanted = config.memory.mode
    return ("resident", "stream") if wanted == "auto" else (wanted,)


def _decode(config: Settings, mesh: Mesh, limit: float) -> Iterator[Way]:
    tiles, cost = choose_tiles(config, limit, mesh.per_prompt)
    cells = latent_cells(config.resolution.geometry)
    yield Way("decode", cells, _held(config), cost, tiles=tiles)


def _held(config: Settings) -> str:
    """The autoencoder, which is no chain of equal blocks, is on the device whole while it runs."""
    return "offload" if config.memory.mode == "offload" else "resident"


def latent_cells(geometry: Geometry) -> int:
    """Positions of the latent, which are to the decode what tokens are to a transformer."""
    frames, height, width = geometry.latent_grid
    return frames * height * width
