"""The cost of text, anchor and detail: the real stage with its real network, traced at full size.

Blocks are equal, so one or two are traced and counted for all. The first forward of a sampling
stage is traced and counted for the later ones. Both are exact.

What ranks send to each other is arithmetic. Every count is for one rank, which sends and receives
equally many bytes; where ranks differ, it is the rank that sends most. A value has ``dtype_bytes``
bytes: 2 in bfloat16, 4 in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pixelwizard.config.backbone import DiTSizes
from pixelwizard.config.generate import ATTENTION
from pixelwizard.config.geometry import PATCH, Geometry
from pixelwizard.config.parallel import SINGLE, Mesh
from pixelwizard.config.targets import Part
from pixelwizard.diffusion.schedules import Schedule
from pixelwizard.models.attention.base import Attention, Place
from pixelwizard.models.shortcut.network import ShortcutDiT, SteppedDiT, make_detail
from pixelwizard.models.wan.dit import PAIRED, TextKeyValues, WanDiT
from pixelwizard.models.wan.kernels import PLAIN, Kernels
from pixelwizard.models.wan.quantised import quantise_linears
from pixelwizard.models.wan.streaming import packed_bytes
from pixelwizard.parallel.exchange import CFGParallel, Ulysses
from pixelwizard.planning.device import META, Trace, Work
from pixelwizard.stages.latents import Anchor, Detail


def tokens_per_rank(tokens: int, ranks: int) -> int:
    """The tokens of the rank with most; others have the same number or one fewer."""
    return -(-tokens // ranks)


def ulysses_bytes(tokens: int, dim: int, ranks: int, dtype_bytes: int = 2) -> int:
    """One layer of attention whose heads are split over ``ranks`` (arXiv 2309.14509).

    Queries, keys and values of own tokens go to the ranks of their heads, the results of the
    others' tokens go back to them; where tokens divide, 4 L dim / P (P - 1) / P values.
    """
    own = tokens_per_rank(tokens, ranks)
    return (3 * own * (ranks - 1) + tokens - own) * dim * dtype_bytes // ranks


def gather_bytes(values: int, ranks: int) -> int:
    """An all-gather of a float32 tensor of which each rank has ``values``."""
    return 4 * values * (ranks - 1)


def guidance_bytes(values: int) -> int:
    """One guided step on two halves of the ranks: a prediction of ``values``, each to the other."""
    return 4 * values


def shard_bytes(weights: int, ranks: int) -> int:
    """One forward with sharded ``weights`` (bytes): the slices of the other ranks are gathered."""
    return weights * (ranks - 1) // ranks


@dataclass(frozen=True)
class Sampling:
    """One sampling stage: network, sizes, schedule. ``anchor``: of the detail stage's condition.

    ``mesh``: the ranks that share it, of which one is looked at. ``kernels``: compiled or not.
    ``paired`` is the network's.
    ``window``: what of a longer clip passes through the network at once.
    """

    sizes: DiTSizes
    controlled: int
    geometry: Geometry
    anchor: Geometry | None
    schedule: Schedule
    guidance: float
    dtype: torch.dtype
    residual: torch.dtype
    attention: Part = "exact"
    network: Part | None = None
    quantize: str | None = None
    mesh: Mesh = SINGLE
    kernels: Kernels = PLAIN
    paired: int = PAIRED["cpu"]
    window: Geometry | None = None

    @property
    def passing(self) -> Geometry:
        """What goes through the network at once."""
        return self.window or self.geometry


@dataclass(frozen=True)
class Cost:
    """Bytes on the device, operations by kind, bytes moved there and bytes fetched from the host.

    ``peak`` includes ``weights``. ``fetched`` overlaps with the computation. ``sent``: bytes to
    other ranks, by what for. ``paired``: both passes of a guided step are one batch. ``host``:
    bytes held in host memory; ``loaded``: of the weights that this rank reads, wherever they stay.
    ``features``: bytes of the anchor's there, and of them ``fetched`` by all forwards.
    """

    weights: int
    peak: int
    flops: Counter[str]
    moved: int
    fetched: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    paired: bool = False
    host: int = 0
    loaded: int = 0
    features: tuple[int, int] = (0, 0)

    @property
    def with_features_on_device(self) -> Cost:
        """The same with the anchor's features on the device, at its peak too."""
        size, fetched = self.features
        peak, host = self.peak + size, self.host - size
        return replace(self, peak=peak, host=host, fetched=self.fetched - fetched)


def cost_of_sampling(stage: Sampling, stream: bool, chunk: int, lean: bool = False) -> Cost:
    """The cost of one clip with all its steps; ``stream``: blocks pass from host memory.

    ``lean``: as ``WanDiT`` says, with keys and values of the text in host memory. Weights that are
    sharded pass from the other ranks as from the host: at most two blocks are whole at a time, one
    that computes and the next.
    """
    trace, shards = Trace(), stage.mesh.shards
    passing = stream or shards > 1
    traced = min(stage.sizes.num_layers, 2 if passing else 1)
    network = _network(stage, traced) if passing else None
    if network is not None:
        network.stream_from_host(META, asynchronous=False)
    with torch.no_grad(), trace:
        if network is None:
            network = _network(stage, traced)
        else:
            assert network._stream is not None
            for weight in (*network._stream.buffers, *_all_but_blocks(network)):
                trace.allocated(weight)
        network.chunk, network.lean, network.residual = chunk, lean, stage.residual
        network.paired = stage.paired
        network.use(stage.kernels)
        network.ulysses = _Ulysses(stage.mesh.sequence) if stage.mesh.sequence > 1 else None
        weights = trace.live
        trace.restart_peak()
        rehearsal = _Rehearsal(network, trace, stage.sizes.num_layers)
        _run(stage, rehearsal)
    more = stage.sizes.num_layers - traced
    block = packed_bytes(network.blocks[0])
    text = more * rehearsal.text_bytes
    whole = stage.sizes.num_layers * block + sum(w.nbytes for w in _all_but_blocks(network))
    calls = rehearsal.calls
    work = (
        trace.work
        - rehearsal.traced
        + rehearsal.passes
        + max(0, stage.controlled - 1) * rehearsal.additions
        + rehearsal.texts * more * rehearsal.keys_values
    )
    held = (0 if passing else more * block) + (whole // shards if shards > 1 else 0)
    peak = max(trace.peak, rehearsal.encode_peak) + held + (0 if lean else text)
    fetched = calls * stage.sizes.num_layers * block if stream else 0
    if lean:
        one = rehearsal.text_bytes // rehearsal.prompts
        fetched += rehearsal.samples * stage.sizes.num_layers * one
    copied = rehearsal.samples * stage.controlled * rehearsal.features
    host = (stage.sizes.num_layers * block if stream else 0) + (text if lean else 0)
    return Cost(
        *(weights + held, peak, work.flops, work.moved, fetched + copied),
        sent=_sent(stage, rehearsal.samples, calls, whole),
        paired=rehearsal.samples > calls,
        host=trace.on_host + host,
        loaded=whole // shards,
        features=(rehearsal.features, copied),
    )


def _sent(stage: Sampling, samples: int, calls: int, weights: int) -> Counter[str]:
    """Bytes that a rank sends in ``calls`` forwards of ``samples``, by the axis of the mesh."""
    mesh, sizes, tokens = stage.mesh, stage.sizes, stage.passing.tokens
    layer = ulysses_bytes(tokens, sizes.dim, mesh.sequence, stage.dtype.itemsize)
    patches = tokens_per_rank(tokens, mesh.sequence) * sizes.out_dim * PATCH**2
    forward = sizes.num_layers * layer + gather_bytes(patches, mesh.sequence)
    guided = sum(step.nfe for step in stage.schedule.steps if step.guided) // 2
    whole = stage.geometry.tokens * sizes.out_dim * PATCH**2
    return Counter(
        sequence=samples * forward,
        guidance=(mesh.guidance > 1) * guided * guidance_bytes(whole),
        shards=calls * shard_bytes(weights, mesh.shards),
    )


class _OfLayer(Attention):
    """An attention whose every layer is like one of them."""

    def __init__(self, made: Attention, layer: int) -> None:
        self.made, self.layer = made, layer

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, place: Place) -> Tensor:
        return self.made(query, key, value, replace(place, layer=self.layer))


class _Traced(NamedTuple):
    """A forward whose layers are all alike, a block and an addition of it, the bytes it takes."""

    forward: Work
    block: Work
    addition: Work
    extra: int


class _Rehearsal:
    """Stands in for the network of ``layers`` blocks, of which it has a few.

    One forward is traced for every size of batch and kind of attention; ``traced`` is what they
    cost, ``passes`` what all forwards that were asked for do, ``additions`` one addition of each.
    """

    def __init__(self, network: WanDiT, trace: Trace, layers: int) -> None:
        self.network, self.trace, self.first_change = network, trace, network.first_change
        self.attention, self.layers, self.sigma = network.attention, layers, None
        self.chunk, self.paired = network.chunk, network.paired
        self.calls = self.samples = self.texts = self.prompts = self.text_bytes = 0
        self.encode_peak = self.features = 0
        self.forward = self.block = self.addition = self.keys_values = Work()
        self.traced = self.passes = self.additions = Work()
        self._kinds: dict[Hashable, _Traced] = {}
        for module in [*network.blocks, *getattr(network._stream, "slots", [])]:
            module.forward = self._watched(module.forward, "block")
            cross = module.cross_attn
            cross.keys_values = self._watched(cross.keys_values, "keys_values")
        network._add = self._watched(network._add, "addition")  # type: ignore[method-assign]

    def encode_text(self, embeddings: list[Tensor]) -> TextKeyValues:
        text = self.network.encode_text(embeddings)
        self.texts += 1
        self.prompts += len(embeddings)
        self.text_bytes += sum(t.nbytes for t in text.blocks[0])
        if self.network.lean:
            for tensor in chain.from_iterable(text.blocks):
                self.trace.move_to_host(tensor)
        return text

    def encode_anchor(self, anchor: Tensor, grid: tuple[int, int, int]) -> Tensor:
        assert isinstance(self.network, ShortcutDiT)
        features = self.network.encode_anchor(anchor, grid)
        self.features = features.nbytes
        self.encode_peak = self.trace.peak - features.nbytes
        self.trace.move_to_host(features)
        self.trace.restart_peak()
        return features

    def __call__(self, latent: Tensor, *inputs: Any) -> Tensor:
        self.calls += 1
        self.samples += len(latent)
        frames, height, width = latent.shape[2:]
        grid = (frames, height // PATCH, width // PATCH)
        places = [Place(grid, layer, sigma=self.sigma) for layer in range(self.layers)]
        kinds = [(len(latent), self.attention.kind(place)) for place in places]
        for layer in map(kinds.index, dict.fromkeys(kinds)):
            if kinds[layer] not in self._kinds:
                self._kinds[kinds[layer]] = self._traced(layer, latent, *inputs)
            self.trace.expect(self._kinds[kinds[layer]].extra)
        first = self._kinds[kinds[0]]
        self.passes += first.forward - len(self.network.blocks) * first.block
        self.additions += first.addition
        for kind in kinds:
            self.passes += self._kinds[kind].block
        return torch.empty(latent.shape, device=latent.device)

    def _traced(self, layer: int, *inputs: Any) -> _Traced:
        """A forward whose blocks have the attention of ``layer``."""
        if not self._kinds:
            self.trace.restart_peak()
        peak, self.trace.peak = self.trace.peak, self.trace.live
        before = self.trace.live
        self.network.attention, self.network.sigma = _OfLayer(self.attention, layer), self.sigma
        self._watched(self.network, "forward")(*inputs)
        self.traced += self.forward
        extra = self.trace.peak - before
        self.trace.peak = max(peak, self.trace.peak)
        return _Traced(self.forward, self.block, self.addition, extra)

    def _watched(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The call, remembering under ``name`` what its last use cost."""

        def watched(*args: Any) -> Any:
            before = self.trace.work
            out = call(*args)
            setattr(self, name, self.trace.work - before)
            return out

        return watched


def _network(stage: Sampling, layers: int) -> WanDiT:
    sizes = replace(stage.sizes, num_layers=layers)
    with META:
        stepped = stage.schedule.steps[0].dt is not None
        anchor = SteppedDiT(sizes) if stepped else WanDiT(sizes)
        network = make_detail(stage.network, sizes, [0]) if stage.anchor else anchor
    network.attention = ATTENTION.make(stage.attention, "attention")
    network = network.to(stage.dtype).requires_grad_(False)
    if stage.quantize is not None:
        quantise_linears(network, stage.quantize)
    return network


def _all_but_blocks(network: WanDiT) -> Iterator[Tensor]:
    for name, weight in network.named_parameters():
        if not name.startswith("blocks."):
            yield weight


class _Ulysses(Ulysses):
    """One of the ranks that share a sequence; the others are not there."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = size, 0

    def gather(self, x_BLE: Tensor, length: int) -> Tensor:
        return x_BLE.new_empty(len(x_BLE), length, x_BLE.shape[2])

    def _exchange(self, rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
        return rows.new_empty(sum(receive), *rows.shape[1:])


class _CFGParallel(CFGParallel):
    """The half that makes the pass with the prompt; the other is not there."""

    def __init__(self) -> None:
        self.index = 0

    def both(self, own: Tensor) -> tuple[Tensor, Tensor]:
        return own, torch.empty_like(own)


def _run(stage: Sampling, network: Any) -> None:
    """The real stage, on tensors without content."""
    schedule = stage.schedule
    if not schedule.is_fixed:  # the most that it can cost: nothing is skipped
        every = tuple(replace(step, computed=True) for step in schedule.steps)
        schedule = replace(schedule, steps=every, skip="none")
    size = (stage.sizes.text_len, stage.sizes.text_dim)
    text = torch.empty(size, dtype=stage.dtype, device=META)
    negative = torch.empty(size, dtype=stage.dtype, device=META)
    noise = torch.empty(stage.sizes.in_dim, *stage.geometry.latent_grid, device=META)
    way = (network, schedule, stage.guidance, _CFGParallel() if stage.mesh.guidance > 1 else None)
    if stage.anchor is None:
        Anchor(*way)(noise, text, negative)
        return
    anchor = torch.empty(stage.sizes.in_dim, *stage.anchor.latent_grid, device=META)
    Detail(*way, stage.passing.latent_grid[0])(noise, anchor, text, negative)
