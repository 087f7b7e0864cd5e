"""Time and memory of every stage of a run, before anything is loaded.

Every figure comes from tracing the real modules on the meta device at full size; times divide the
counted operations and bytes by the rates of a device (``ceilings``). What a convolution kernel
takes for itself, and the fragments of an allocator, are not in it; ``CONTEXT`` is kept free for
them and for the driver.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from pixelwizard.ceilings import Ceilings, find
from pixelwizard.decode_cost import Settings, choose_tiles
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.geometry import Geometry, Tiles
from pixelwizard.sampling_cost import Cost, Sampling, cost_of_sampling
from pixelwizard.text_cost import cost_of_text
from pixelwizard.text_table import aligned
from pixelwizard.wan.dit import CHUNK

GB = 1e9
CONTEXT = 0.7e9
CHUNKS = (CHUNK, CHUNK // 4)
STAGES = ("text", "anchor", "detail", "decode")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StagePlan:
    """One stage as it will run. ``seconds``: one clip; ``peak_gb`` includes the weights.

    ``mode`` is resident, offload or stream; ``chunk`` tokens go through a layer of a transformer
    together; ``tiles`` of the decode: [rows, columns].
    """

    name: str
    tokens: int
    tflop: float
    weights_gb: float
    activations_gb: float
    peak_gb: float
    seconds: float
    mode: str
    fits: bool = True
    chunk: int | None = None
    tiles: list[int] | None = None


@dataclass(frozen=True)
class Plan:
    """All stages, on which device they were timed and what they have to fit into.

    ``refusal``: one sentence saying which stage does not fit and what would; None if all fit.
    """

    device: str
    budget_gb: float | None
    stages: tuple[StagePlan, ...]
    refusal: str | None

    @property
    def by_name(self) -> Mapping[str, StagePlan]:
        """The stages by name: text, anchor, detail, decode."""
        return {stage.name: stage for stage in self.stages}

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "seconds": sum(stage.seconds for stage in self.stages)}


def make_plan(
    config: Settings,
    device: str = "auto",
    budget_gb: float | None = None,
    only: Collection[str] = STAGES,
) -> Plan:
    """The first way to run each stage that fits into the budget, else its leanest way.

    ``budget_gb`` holds where ``config.memory.budget_gb`` says nothing; with neither, what the
    device has.
    """
    ceilings = find(device)
    budget_gb = config.memory.budget_gb or budget_gb or _memory_gb(device, ceilings)
    limit = budget_gb * GB - CONTEXT if budget_gb else math.inf
    ways: dict[str, Callable[[Settings], Iterator[_Way]]] = {
        "text": _text,
        "anchor": _anchor,
        "detail": _detail,
        "decode": partial(_decode, limit),
    }
    stages = tuple(_choose(ways[name](config), ceilings, limit) for name in only)
    return Plan(ceilings.name, budget_gb, stages, _refusal(config, stages, budget_gb))


def _memory_gb(device: str, ceilings: Ceilings) -> float | None:
    """What this machine's accelerator has, where it is the one that is asked for."""
    if device == "auto" and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GB
    return ceilings.memory_gb


def _refusal(
    config: Settings, stages: Collection[StagePlan], budget_gb: float | None
) -> str | None:
    """The sentence about the stage that needs most, if not all fit."""
    tight = [stage for stage in stages if not stage.fits]
    if not tight:
        return None
    worst = max(tight, key=lambda stage: stage.peak_gb)
    needs = -(-(worst.peak_gb * GB + CONTEXT) // (0.1 * GB)) / 10
    leaner = ""
    if worst.name == "decode":
        leaner = (
            "" if config.decode.mode == "auto" else ", decode=auto (tiles as small as it takes)"
        )
    elif config.memory.mode not in ("auto", "stream"):
        leaner = ", memory=auto (which streams weights)"
    return (
        f"memory.budget_gb={budget_gb:g} is too little: the {worst.name} stage needs {needs:g} GB"
        f" with weights {', '.join([worst.mode, *_details(worst)])};"
        f" use memory.budget_gb={needs:g}{leaner} or a smaller resolution"
    )


@dataclass(frozen=True)
class _Way:
    """One way to run a stage."""

    name: str
    tokens: int
    mode: str
    cost: Cost
    chunk: int | None = None
    tiles: Tiles | None = None


def _choose(ways: Iterator[_Way], ceilings: Ceilings, limit: float) -> StagePlan:
    """The first way that fits, or the one that needs least."""
    best: _Way | None = None
    for way in ways:
        if best is None or way.cost.peak < best.cost.peak:
            best = way
        if way.cost.peak <= limit:
            return _planned(way, ceilings, True)
    assert best is not None
    return _planned(best, ceilings, False)


def _planned(way: _Way, ceilings: Ceilings, fits: bool) -> StagePlan:
    cost = way.cost
    computing = ceilings.seconds(cost.flops, cost.moved)
    return StagePlan(
        name=way.name,
        tokens=way.tokens,
        tflop=round(sum(cost.flops.values()) / 1e12, 3),
        weights_gb=round(cost.weights / GB, 6),
        activations_gb=round((cost.peak - cost.weights) / GB, 6),
        peak_gb=round(cost.peak / GB, 6),
        seconds=round(max(computing, cost.fetched / (ceilings.host_gbs * 1e9)), 3),
        mode=way.mode,
        fits=fits,
        chunk=way.chunk,
        tiles=[way.tiles.rows, way.tiles.columns] if way.tiles else None,
    )


def _text(config: Settings) -> Iterator[_Way]:
    backbone = config.backbone
    for mode in _modes(config):
        cost = cost_of_text(
            *(backbone.text, backbone.dit.text_len, getattr(torch, backbone.dtype)),
            mode == "stream",
        )
        yield _Way("text", backbone.dit.text_len, mode, cost)


def _anchor(config: Settings) -> Iterator[_Way]:
    size = config.resolution
    stage = Sampling(
        sizes=config.backbone.dit,
        controlled=0,
        geometry=size.anchor_geometry,
        anchor=None,
        schedule=make_schedule(config.anchor, size.anchor_shift),
        guidance=config.anchor.guidance,
        dtype=getattr(torch, config.backbone.dtype),
        residual=getattr(torch, config.memory.residual),
    )
    yield from _sampling("anchor", config, stage)


def _detail(config: Settings) -> Iterator[_Way]:
    size = config.resolution
    stage = Sampling(
        sizes=config.backbone.detail_dit,
        controlled=len(config.backbone.control_blocks),
        geometry=size.geometry,
        anchor=size.anchor_geometry,
        schedule=make_schedule(config.schedule, size.shift),
        guidance=config.schedule.guidance,
        dtype=getattr(torch, config.backbone.dtype),
        residual=getattr(torch, config.memory.residual),
    )
    yield from _sampling("detail", config, stage)


def _sampling(name: str, config: Settings, stage: Sampling) -> Iterator[_Way]:
    """Fewer bytes each: resident before streamed, large chunks before small ones."""
    chunks = (config.memory.chunk,) if config.memory.chunk else CHUNKS
    for mode in _modes(config):
        for chunk in chunks:
            cost = cost_of_sampling(stage, mode == "stream", chunk)
            yield _Way(name, stage.geometry.tokens, mode, cost, chunk)


def _modes(config: Settings) -> tuple[str, ...]:
    """Where the weights of a network of blocks may be."""
    wanted = config.memory.mode
    return ("resident", "stream") if wanted == "auto" else (wanted,)


def _decode(limit: float, config: Settings) -> Iterator[_Way]:
    tiles, cost = choose_tiles(config, limit)
    cells = latent_cells(config.resolution.geometry)
    yield _Way("decode", cells, _held(config), cost, tiles=tiles)


def _held(config: Settings) -> str:
    """The autoencoder, which is no chain of equal blocks, is on the device whole while it runs."""
    return "offload" if config.memory.mode == "offload" else "resident"


def latent_cells(geometry: Geometry) -> int:
    """Positions of the latent, which are to the decode what tokens are to a transformer."""
    frames, height, width = geometry.latent_grid
    return frames * height * width


def _details(stage: StagePlan) -> list[str]:
    """Chunks or tiles in words."""
    if stage.chunk:
        return [f"chunks of {stage.chunk} tokens"]
    if stage.tiles:
        rows, columns = stage.tiles
        return ["whole frames" if rows * columns == 1 else f"{rows} x {columns} tiles"]
    return []


def table(plan: Plan) -> str:
    """The plan for people."""
    head = ("stage", "tokens", "TFLOP", "weights", "activations", "peak GB", "seconds", "how")
    rows: list[tuple[str, ...]] = [head]
    for stage in plan.stages:
        how = [stage.mode, *_details(stage), *([] if stage.fits else ["DOES NOT FIT"])]
        figures = (stage.weights_gb, stage.activations_gb, stage.peak_gb, stage.seconds)
        shown = [f"{figure:.2f}" for figure in figures]
        rows.append((stage.name, f"{stage.tokens}", f"{stage.tflop:.1f}", *shown, ", ".join(how)))
    lines = aligned(rows, left=(0, 7))
    total = sum(stage.seconds for stage in plan.stages)
    peak = max(stage.peak_gb for stage in plan.stages)
    budget = f", budget {plan.budget_gb:g} GB" if plan.budget_gb else ""
    lines.append(f"one video: {total:.0f} s on {plan.device}, peak {peak:.1f} GB{budget}")
    return "\n".join(lines)
