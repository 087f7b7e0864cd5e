"""One forward of a transformer against that of the published code, on equal weights and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pixelwizard.bench.measuring import ENOUGH_SECONDS, Peak, in_turns
from pixelwizard.bench.rates import now
from pixelwizard.bench.reference import reference_forward
from pixelwizard.bench.report import ForwardResult
from pixelwizard.config.geometry import PATCH
from pixelwizard.io.process import GB
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
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
