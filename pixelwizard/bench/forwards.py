"""One forward of a transformer against that of the published code, on equal weights and inputs.

``reference_forward`` is as in the published code. Its arithmetic equals ``wan.dit``, at a higher
cost: every token carries its own float32 modulation [B, L, 6, E], rotary positions are complex128
products, nothing is chunked, and text keys and anchor features are recomputed in every forward.
Attention runs through the same kernel, so the comparison covers everything else.

Letters of shapes as in ``wan.dit``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.bench.measuring import ENOUGH_SECONDS, Peak, in_turns
from pixelwizard.bench.rates import now
from pixelwizard.bench.report import ForwardResult
from pixelwizard.config.geometry import PATCH
from pixelwizard.io.process import GB
from pixelwizard.models.attention.exact import attention
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import (
    Block,
    Grid,
    Projections,
    WanDiT,
    affine_norm,
    in_float32,
    patchify,
    unpatchify,
)
from pixelwizard.models.wan.kernels import modulated
from pixelwizard.planning.device import Trace
from pixelwizard.planning.planner import CONTEXT

TIMESTEP = 900.0
STEP_SIZE = 100.0


@dataclass(frozen=True)
class Forward:
    """A network and what it is asked: noise [C, T, H, W], text [L, text_dim], the anchor's latent.

    The text's keys and the anchor's features are computed once per clip, so ``prepared`` does it
    beforehand; the reference-shaped forward does it in every call.
    """

    network: WanDiT
    noise: Tensor
    text: Tensor
    anchor: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int, int]:
        """The tokens along time, height and width."""
        frames, height, width = self.noise.shape[1:]
        return frames, height // PATCH, width // PATCH

    def prepared(self) -> Callable[[], Tensor]:
        """Our forward, ready to be called."""
        inputs: list[Any] = [self.noise[None], self._vector(TIMESTEP)]
        inputs.append(self.network.encode_text([self.text]))
        if isinstance(self.network, ShortcutDiT) and self.anchor is not None:
            features = self.network.encode_anchor(self.anchor[None], self.grid)
            inputs += [self._vector(STEP_SIZE), features]
        return lambda: self.network(*inputs)

    def reference(self) -> Tensor:
        """The same velocity, the other way."""
        inputs: list[Any] = [self.noise[None], self._vector(TIMESTEP), [self.text]]
        if self.anchor is not None:
            inputs += [self._vector(STEP_SIZE), self.anchor[None]]
        return reference_forward(self.network, *inputs)

    def on_meta(self) -> Forward:
        """The same shapes without content; a new network, so a trace counts it."""
        network, meta = self.network, torch.device("meta")
        dtype = network.patch_embedding.weight.dtype
        with meta:
            if isinstance(network, ShortcutDiT):
                blocks = [int(k) for k in network.spatial_adapter.zero_layers]
                network = ShortcutDiT(network.sizes, blocks)
            else:
                network = WanDiT(network.sizes)
        anchor = None if self.anchor is None else self.anchor.to(meta)
        network = network.to(dtype).requires_grad_(False)
        return Forward(network, self.noise.to(meta), self.text.to(meta), anchor)

    def _vector(self, value: float) -> Tensor:
        return self.noise.new_tensor([value])


@torch.no_grad()
def compare(name: str, forward: Forward, budget_gb: float | None) -> ForwardResult:
    """Seconds, memory and difference of both; the reference's traced where it does not fit."""
    calls = [forward.prepared()]
    needed = reference_gb(forward)
    fits = budget_gb is None or needed + CONTEXT / GB <= budget_gb
    if fits:
        calls.append(forward.reference)
    network, device = forward.network, forward.noise.device
    weights = [*network.parameters(), *network.buffers()]
    velocities, peaks, first = [], [], []
    for call in calls:
        with Peak(device, weights) as peak:
            started = now(device)
            velocities.append(call())
            first.append(now(device) - started)
        peaks.append(peak.bytes / GB)
    enough = sum(first) >= ENOUGH_SECONDS
    seconds = first if enough else in_turns(calls, lambda: now(device))
    ours = (name, math.prod(forward.grid), seconds[0], peaks[0])
    if not fits:
        return ForwardResult(*ours, None, needed, None, f"needs {needed + CONTEXT / GB:.0f} GB")
    velocity, expected = velocities
    difference = ((velocity - expected).abs().max() / expected.abs().max()).item()
    return ForwardResult(*ours, seconds[1], peaks[1], difference)


def reference_gb(forward: Forward) -> float:
    """What the reference-shaped forward needs with its weights, traced on the meta device."""
    trace = Trace()
    with trace:
        forward.on_meta().reference()
    return trace.peak / GB


@torch.no_grad()
def reference_forward(
    network: WanDiT,
    latent_BCTHW: Tensor,
    timestep_B: Tensor,
    embeddings: Sequence[Tensor],
    step_size_B: Tensor | None = None,
    anchor_BCTHW: Tensor | None = None,
) -> Tensor:
    """Velocity, float32 [B, C, T, H, W]; a detail network also takes step size and anchor."""
    frames, height, width = latent_BCTHW.shape[2:]
    grid = (frames, height // PATCH, width // PATCH)
    patch = network.patch_embedding
    weight = patch.weight.flatten(1)
    x = F.linear(patchify(latent_BCTHW).to(weight.dtype), weight, patch.bias)
    time = _per_token(network.embed_time, timestep_B, x.shape[1])
    controls = {}
    if isinstance(network, ShortcutDiT) and anchor_BCTHW is not None:
        assert step_size_B is not None
        time = time + _per_token(network.dt_embedding, step_size_B, x.shape[1])
        adapter = network.spatial_adapter
        features = adapter.encode(anchor_BCTHW, grid, x.shape[1])
        controls = adapter(features, timestep_B, step_size_B)
    modulation = in_float32(network.time_projection, time).unflatten(2, (6, -1))
    angles = complex_angles(grid, network.sizes.dim // network.sizes.num_heads, x.device)
    context = _context(network, embeddings)
    for index, block in enumerate(network.blocks):
        if index in controls:
            x = x + controls[index](slice(0, x.shape[1]))
        x = reference_block(block, x, modulation, angles, context)
    return unpatchify(_head(network, x, time), grid)


def reference_block(
    block: Block, x: Tensor, modulation_BL6E: Tensor, angles: Tensor, context: Tensor
) -> Tensor:
    """Tokens [B, L, E] -> float32 [B, L, E]; ``context``: embedded text [B, text_len, E]."""
    dtype, eps = block.ffn[0].weight.dtype, block.eps
    six = (block.modulation.float() + modulation_BL6E).unbind(2)
    hidden = modulated(x, six[0], six[1], eps, torch.float32)
    x = x + _self_attention(block.self_attn, hidden.to(dtype), angles) * six[2]
    keys, values = block.cross_attn.keys_values(context)
    x = x + block.cross_attn(affine_norm(block.norm3, x).to(dtype), keys, values)
    hidden = modulated(x, six[3], six[4], eps, torch.float32)
    return x + block.ffn(hidden.to(dtype)) * six[5]


def complex_angles(grid: Grid, head_dim: int, device: torch.device) -> Tensor:
    """exp(i angle) of every token and pair of channels, complex128 [L, D/2]."""
    third = head_dim // 2 // 3
    parts = []
    for axis, pairs in enumerate((head_dim // 2 - 2 * third, third, third)):
        exponent = torch.arange(pairs, dtype=torch.float64, device=device) / pairs
        place = torch.arange(grid[axis], dtype=torch.float64, device=device)
        angle = torch.outer(place, 10000.0**-exponent)
        shape = [1, 1, 1, pairs]
        shape[axis] = grid[axis]
        parts.append(torch.polar(torch.ones_like(angle), angle).view(shape).expand(*grid, pairs))
    return torch.cat(parts, dim=-1).flatten(0, 2)


def _self_attention(layer: Projections, hidden: Tensor, angles: Tensor) -> Tensor:
    query, key, value = (
        part.unflatten(-1, (layer.heads, -1))
        for part in (
            _rms_norm(layer.norm_q, layer.q(hidden)),
            _rms_norm(layer.norm_k, layer.k(hidden)),
            layer.v(hidden),
        )
    )
    query, key = _rotated(query, angles), _rotated(key, angles)
    out = attention(query.to(value.dtype), key.to(value.dtype), value)
    return layer.o(out.flatten(2))


def _rms_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.eps)


def _rotated(x_BLND: Tensor, angles: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_BLND.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * angles[:, None]).flatten(-2).float()


def _per_token(embed: Callable[[Tensor], Tensor], values_B: Tensor, length: int) -> Tensor:
    """[B] -> float32 [B, L, E], computed for every token although all are equal."""
    return embed(values_B.repeat_interleave(length)).unflatten(0, (-1, length))


def _context(network: WanDiT, embeddings: Sequence[Tensor]) -> Tensor:
    """The prompts, padded with zeros and embedded, [B, text_len, E]."""
    room = network.sizes.text_len
    padded = [F.pad(text, (0, 0, 0, room - len(text))) for text in embeddings]
    return network.text_embedding(torch.stack(padded).to(network.text_embedding[0].weight.dtype))


def _head(network: WanDiT, x: Tensor, time_BLE: Tensor) -> Tensor:
    head = network.head
    shift, scale = (head.modulation.float() + time_BLE.unsqueeze(2)).unbind(2)
    return in_float32(head.head, modulated(x, shift, scale, head.eps, torch.float32))
