"""Time and memory of every stage of a run, before anything is loaded.

Every figure comes from tracing the real modules on the meta device at full size; times divide the
counted operations and bytes by the rates of a device (``device``). The workspace of
convolutions and the allocator's fragmentation are not included; ``CONTEXT`` is kept free for
them and for the driver.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from pixelwizard.config.generate import ATTENTION, SamplingSettings
from pixelwizard.config.geometry import Geometry, ResolutionSettings, Tiles
from pixelwizard.config.parallel import SINGLE, Mesh
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.io.process import GB
from pixelwizard.io.terminal import STAGES
from pixelwizard.models.wan.dit import CHUNK, PAIRED
from pixelwizard.models.wan.kernels import Kernels, chosen
from pixelwizard.planning.decode_cost import choose_tiles, cost_of_encode
from pixelwizard.planning.device import DeviceRates, find
from pixelwizard.planning.report import Plan, StagePlan, details
from pixelwizard.planning.text_cost import cost_of_text
from pixelwizard.planning.transformer_cost import Cost, Sampling, cost_of_sampling
from pixelwizard.stages.precision import settled

CONTEXT = 0.7e9
CHUNKS = (CHUNK, CHUNK // 4)
ROWS = 128
"""Queries of a tile of attention."""
REFINING = ("text", "encode", "detail", "decode")
"""The stages of a given clip."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExecutionMode:
    """One way to run a stage."""

    name: str
    tokens: int
    mode: str
    cost: Cost
    chunk: int | None = None
    tiles: Tiles | None = None
    attention: str | None = None
    features: str | None = None
    lean: bool = False


def make_plan(
    config: SamplingSettings,
    device: str = "auto",
    budget_gb: float | None = None,
    only: Collection[str] | None = None,
    mesh: Mesh = SINGLE,
    clip: ResolutionSettings | None = None,
) -> Plan:
    """The first way to run each stage that fits into the budget, else its leanest way.

    ``budget_gb``, of each rank of ``mesh``, holds where ``config.memory.budget_gb`` says nothing;
    with neither, what the device has. ``clip``: the sizes of a given clip's video, which passes in
    windows of the configuration's length. ``only`` these stages (None: those of a text or a clip).
    """
    if only is None:
        only = REFINING if clip else STAGES
    config, rates = settled(config, here=device == "auto"), find(device)
    memory_gb, processors = _of_device(device, rates)
    budget_gb = config.memory.budget_gb or budget_gb or memory_gb
    limit = budget_gb * GB - CONTEXT if budget_gb else math.inf
    stages = tuple(
        _choose(execution_modes(name, config, mesh, limit, processors, clip), rates, limit, mesh)
        for name in only
    )
    if device != "auto":  # this machine's choice of kernels says nothing of another
        stages = tuple(replace(stage, attention=None) for stage in stages)
    video = (clip or config.resolution).geometry
    writing = rates.writing(config.video, video, mesh.per_prompt)
    refusal = _refusal(config, stages, budget_gb)
    return Plan(rates.name, budget_gb, stages, refusal, mesh, round(writing, 3))


def execution_modes(
    stage: str,
    config: SamplingSettings,
    mesh: Mesh,
    limit: float,
    processors: int | None = None,
    clip: ResolutionSettings | None = None,
) -> Iterator[ExecutionMode]:
    """How one rank of ``mesh`` could run a stage (text, encode, anchor, detail, decode).

    ``processors`` are the multiprocessors of a GPU, None on a CPU. The decode has only one way in
    the end: the one that needs at most ``limit`` bytes.
    """
    if stage == "text":
        return _text(config)
    kernels = chosen(config.compile, processors is not None)
    whole = config if clip is None else replace(config, resolution=clip)
    if stage == "encode":
        return _encode(whole, config.resolution.geometry.latent_grid[0])
    if stage == "decode":
        return _decode(whole, mesh, limit, kernels)
    clip = clip if stage == "detail" else None
    made = _stage(stage, config, mesh, kernels, PAIRED["cuda" if processors else "cpu"], clip)
    return _sampling(made, stage, _chunks(config, made, processors), _modes(config))


def _text(config: SamplingSettings) -> Iterator[ExecutionMode]:
    for mode in _modes(config):
        cost = cost_of_text(config.backbone, mode == "stream")
        yield ExecutionMode("text", config.backbone.dit.text_len, mode, cost)


def _encode(config: SamplingSettings, window: int) -> Iterator[ExecutionMode]:
    """A clip at the sizes that its refining needs, in parts of ``window`` latent frames."""
    sizes = [config.resolution.anchor_geometry]
    sizes += [config.resolution.geometry] * (config.refine.sigma is not None)
    cells = sum(math.prod(size.latent_grid) for size in sizes)
    yield ExecutionMode("encode", cells, "resident", cost_of_encode(config, sizes, window))


def _chunks(config: SamplingSettings, stage: Sampling, processors: int | None) -> tuple[int, ...]:
    """Tokens that go through a layer together, many before few.

    A GPU gets those whose attention is in whole waves; an attention of several ranks has no chunks.
    """
    if config.memory.chunk:
        return (config.memory.chunk,)
    if processors is None or stage.mesh.sequence > 1:
        return CHUNKS
    heads = stage.sizes.num_heads
    return tuple(chunk_of_whole_waves(chunk, heads, processors) for chunk in CHUNKS)


def filled(tokens: int, heads: int, processors: int) -> float:
    """The share of an attention's waves on a GPU that is work, for ``tokens`` queries, in (0, 1].

    A tile is 128 queries of one head (FlashAttention-2 and -3 and cuDNN at 128 channels a head). A
    GPU takes one a multiprocessor at a time, so tiles run in waves, and a last wave that is not
    full leaves multiprocessors idle at the end of every chunk.
    """
    tiles = -(-tokens // ROWS) * heads
    waves = -(-tiles // processors)
    return tokens * heads / (ROWS * processors * waves)


def chunk_of_whole_waves(wanted: int, heads: int, processors: int) -> int:
    """The chunk near ``wanted`` tokens that leaves least idle; of equal ones the nearest.

    It is a multiple of 128 from a half to five quarters of ``wanted``, so memory stays similar.
    Raises ValueError where no multiple of 128 is in that range (``wanted`` under 103).
    """
    low, high = -(-wanted // (2 * ROWS)), 5 * wanted // (4 * ROWS)
    near = range(max(low, 1) * ROWS, high * ROWS + 1, ROWS)
    return max(near, key=lambda chunk: (filled(chunk, heads, processors), -abs(chunk - wanted)))


def _sampling(
    stage: Sampling, name: str, chunks: Sequence[int], modes: Sequence[str]
) -> Iterator[ExecutionMode]:
    """Fewer bytes each: resident before streamed, large chunks before small ones, lean last.

    The anchor's features are on the device, else in host memory. Ranks that share a sequence have
    few heads each: none is lean.
    """
    tokens, ways = stage.passing.tokens, [(chunk, False) for chunk in chunks]
    if stage.mesh.sequence == 1 and tokens > chunks[-1]:
        ways.append((chunks[-1], True))
    for mode in ("sharded",) if stage.mesh.shards > 1 else modes:
        for chunk, lean in ways:
            cost = cost_of_sampling(stage, mode == "stream", chunk, lean)
            heads = 1 if lean else stage.sizes.num_heads // stage.mesh.sequence
            kernel = _kernel(stage, 2 if cost.paired else 1, heads)
            way = ExecutionMode(name, tokens, mode, cost, chunk, attention=kernel, lean=lean)
            if stage.anchor:
                yield replace(way, cost=cost.with_features_on_device, features="device")
            yield replace(way, features="host" if stage.anchor else None)


def _kernel(stage: Sampling, batch: int, heads: int) -> str | None:
    """What will compute attentions of so many heads, where that is a choice of this machine."""
    sizes, device = stage.sizes, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keys = (batch, stage.passing.tokens, heads, sizes.dim // sizes.num_heads)
    return ATTENTION.make(stage.attention, "attention").choice(device, stage.dtype, keys)


def _stage(
    name: str,
    config: SamplingSettings,
    mesh: Mesh,
    kernels: Kernels,
    paired: int,
    clip: ResolutionSettings | None = None,
) -> Sampling:
    size, backbone, detail = clip or config.resolution, config.backbone, name == "detail"
    sampler, shift = config.anchor, size.anchor_shift
    if detail:
        sampler, shift = config.schedule, size.shift
    start = config.refine.sigma if clip else None
    window = Geometry(size.width, size.height, min(size.frames, config.resolution.frames))
    return Sampling(
        sizes=backbone.detail_dit if detail else backbone.dit,
        controlled=len(backbone.control_blocks) if detail else 0,
        geometry=size.geometry if detail else size.anchor_geometry,
        anchor=size.anchor_geometry if detail else None,
        schedule=make_schedule(sampler, shift, "schedule" if detail else "anchor", start),
        guidance=sampler.guidance,
        dtype=getattr(torch, backbone.dtype),
        residual=getattr(torch, config.memory.residual),
        attention=config.attention,
        network=backbone.detail_network,
        quantize=backbone.quantize,
        mesh=mesh,
        kernels=kernels,
        paired=paired,
        window=window if clip else None,
    )


def _modes(config: SamplingSettings) -> tuple[str, ...]:
    """Where the weights of a network of blocks may be."""
    wanted = config.memory.mode
    return ("resident", "stream") if wanted == "auto" else (wanted,)


def _decode(
    config: SamplingSettings, mesh: Mesh, limit: float, kernels: Kernels
) -> Iterator[ExecutionMode]:
    """Whole or in tiles; the autoencoder, no chain of equal blocks, is on the device whole.

    Positions of the latent are to the decode what tokens are to a transformer.
    """
    tiles, cost = choose_tiles(config, limit, mesh.per_prompt, kernels)
    cells = math.prod(config.resolution.geometry.latent_grid)
    mode = "offload" if config.memory.mode == "offload" else "resident"
    yield ExecutionMode("decode", cells, mode, cost, tiles=tiles)


def _of_device(device: str, rates: DeviceRates) -> tuple[float | None, int | None]:
    """GB and multiprocessors of the GPU that is asked for, which may be this machine's."""
    if device == "auto" and torch.cuda.is_available():
        here = torch.cuda.get_device_properties(0)
        return here.total_memory / GB, here.multi_processor_count
    return rates.memory_gb, rates.processors if device != "auto" else None


def _refusal(
    config: SamplingSettings, stages: Collection[StagePlan], budget_gb: float | None
) -> str | None:
    """The sentence about the stage that needs most, if not all fit."""
    tight = [stage for stage in stages if not stage.fits]
    if not tight:
        return None
    worst = max(tight, key=lambda stage: stage.peak_gb)
    needs = -(-(worst.peak_gb * GB + CONTEXT) // (0.1 * GB)) / 10
    leaner = ""
    if worst.name == "decode":
        tiled = config.decode.mode == "auto"
        leaner = "" if tiled else ", decode=auto (tiles as small as it takes)"
    elif worst.mode == "sharded":
        leaner = ", more ranks"
    elif config.memory.mode not in ("auto", "stream"):
        leaner = ", memory=auto (which streams weights)"
    return (
        f"memory.budget_gb={budget_gb:g} is too little: the {worst.name} stage needs {needs:g} GB"
        f" with weights {', '.join([worst.mode, *details(worst)])};"
        f" use memory.budget_gb={needs:g}{leaner} or a smaller resolution"
    )


def _choose(
    some: Iterator[ExecutionMode], rates: DeviceRates, limit: float, mesh: Mesh
) -> StagePlan:
    """The first way that fits, or the one that needs least."""
    best: ExecutionMode | None = None
    for way in some:
        if best is None or way.cost.peak < best.cost.peak:
            best = way
        if best.cost.peak <= limit:
            break
    assert best is not None
    return _planned(best, rates, mesh, best.cost.peak <= limit)


def _planned(way: ExecutionMode, rates: DeviceRates, mesh: Mesh, fits: bool) -> StagePlan:
    cost = way.cost
    computing = max(rates.seconds(cost.flops, cost.moved), cost.fetched / (rates.host_gbs * 1e9))
    expected = computing / rates.reached.get(way.name, 1.0) + rates.first_use
    sending = _sending(cost, computing, rates, mesh)
    kept = cost.loaded if way.mode == "offload" else 0
    return StagePlan(
        name=way.name,
        tokens=way.tokens,
        tflop=round(sum(cost.flops.values()) / 1e12, 3),
        weights_gb=round(cost.weights / GB, 6),
        activations_gb=round((cost.peak - cost.weights) / GB, 6),
        peak_gb=round(cost.peak / GB, 6),
        seconds=round(expected + sending, 3),
        limit_seconds=round(computing + sending, 3),
        mode=way.mode,
        fits=fits,
        chunk=way.chunk,
        tiles=[way.tiles.rows, way.tiles.columns] if way.tiles else None,
        attention=way.attention,
        paired=cost.paired,
        features=way.features,
        lean=way.lean,
        sent_gb=round(sum(cost.sent.values()) / GB, 6),
        sending_seconds=round(sending, 3),
        host_gb=round((cost.host + kept) / GB, 6),
        kept_gb=round(kept / GB, 6),
        loading_seconds=round(cost.loaded / (rates.loading_gbs * 1e9), 3),
    )


def _sending(cost: Cost, computing: float, rates: DeviceRates, mesh: Mesh) -> float:
    """Seconds that a rank waits for others: only slices of weights come while it computes."""
    reach = {"sequence": mesh.sequence, "shards": mesh.shards}
    seconds = {
        kind: rates.sending(sent, reach.get(kind, mesh.per_prompt))
        for kind, sent in cost.sent.items()
    }
    return sum(seconds.values()) - min(seconds.get("shards", 0.0), computing)
