"""The networks of a training step as functions of (x_t, t, dt), with the conditions of its batch.

B samples; a latent is [B, C, T, H, W], a timestep and a step size [B], in timesteps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pixelwizard.diffusion.sampling import keyed_generator, per_sample
from pixelwizard.models.wan.dit import TextKeyValues

NetworkVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, timestep [B], step size [B]) -> velocity."""


@dataclass(frozen=True)
class FirstFrames:
    """The clean first latent frames [B, C, 1, H, W], and which samples [B] are given theirs."""

    latent: Tensor
    given_B: Tensor

    def put(self, x_t: Tensor, timestep_B: Tensor, step_size_B: Tensor) -> tuple[Tensor, ...]:
        """What the network gets: the given frames in place, their time and step size 0, [B, 2]."""
        first = torch.where(per_sample(self.given_B), self.latent.to(x_t), x_t[:, :, :1])
        times, sizes = (
            torch.stack((values.masked_fill(self.given_B, 0), values), dim=1)
            for values in (timestep_B, step_size_B)
        )
        return torch.cat((first, x_t[:, :, 1:]), dim=2), times, sizes

    def mean(self, error_BCTHW: Tensor) -> Tensor:
        """The mean over each sample [B], without the frame that it was given."""
        generated_B = error_BCTHW[:, :, 1:].flatten(1).mean(1)
        return torch.where(self.given_B, generated_B, error_BCTHW.flatten(1).mean(1))


@dataclass(frozen=True)
class Conditions:
    """What a batch's samples are made from; ``kept_B`` is False where it was dropped.

    ``texts`` and ``empty`` are [L, text_dim] embeddings, one per sample; ``anchor`` is the detail
    network's, ``grid`` the grid of tokens, ``first`` the first latent frames that are given.
    """

    texts: list[Tensor]
    empty: list[Tensor]
    kept_B: Tensor
    grid: tuple[int, int, int]
    anchor: Tensor | None = None
    first: FirstFrames | None = None

    def mean(self, error_BCTHW: Tensor) -> Tensor:
        """The mean over each sample [B], without a first frame that it was given."""
        return self.first.mean(error_BCTHW) if self.first else error_BCTHW.flatten(1).mean(1)


class Pass:
    """A network with its conditions. Texts and anchor are encoded once, at the first pass.

    They are encoded with gradients if the object was made with gradients enabled, wherever the
    first pass is.
    """

    def __init__(self, network: Any, conditions: Conditions, full_precision: bool = False) -> None:
        self.network, self.conditions = network, conditions
        self._full_precision = full_precision
        self._gradients = torch.is_grad_enabled() and not full_precision

    def __call__(self, x_t: Tensor, timestep_B: Tensor, step_size_B: Tensor) -> Tensor:
        """The velocity, float32."""
        return self._velocity(False, x_t, timestep_B, step_size_B)

    @torch.no_grad()
    def empty(self, x_t: Tensor, timestep_B: Tensor, step_size_B: Tensor) -> Tensor:
        """The velocity without the text, of the same anchor: the second pass of guidance.

        Without gradients.
        """
        return self._velocity(True, x_t, timestep_B, step_size_B)

    def guided(self, scale: float, x_t: Tensor, timestep_B: Tensor, step_size_B: Tensor) -> Tensor:
        """u + scale (c - u); one pass with a scale of 1."""
        conditional = self(x_t, timestep_B, step_size_B)
        if scale == 1:
            return conditional
        unconditional = self.empty(x_t, timestep_B, step_size_B)
        return unconditional + scale * (conditional - unconditional)

    @cached_property
    def exact(self) -> Pass:
        """The same network in float32, also under autocast, without gradients into its conditions.

        For differences of passes: bfloat16 would round most of one away.
        """
        return Pass(self.network, self.conditions, full_precision=True)

    def _velocity(self, empty: bool, *inputs: Tensor) -> Tensor:
        kind, exact = inputs[0].device.type, self._full_precision
        with torch.autocast(kind, enabled=False) if exact else nullcontext():
            text = self._without_text if empty else self._with_text
            first = self.conditions.first
            x_t, time, size = first.put(*inputs) if first else inputs
            more = [size] if self.network.takes_step_size else []
            return self.network(x_t, time, text, *more, *self._features)

    @cached_property
    def _with_text(self) -> TextKeyValues:
        with torch.set_grad_enabled(self._gradients):
            return self.network.encode_text(self.conditions.texts)

    @cached_property
    @torch.no_grad()
    def _without_text(self) -> TextKeyValues:
        return self.network.encode_text(self.conditions.empty)

    @cached_property
    def _features(self) -> list[Tensor]:
        """Those of the anchor, if there is one."""
        given = self.conditions
        if given.anchor is None:
            return []
        with torch.set_grad_enabled(self._gradients):
            return [self.network.encode_anchor(given.anchor, given.grid)]


class Passes(Pass):
    """The student's passes, and those of the objective's further networks.

    ``teacher`` is frozen, ``score`` is trained beside the student. Asking for one that the
    objective has not named in ``networks`` is a defect.
    """

    teacher: Pass
    score: Pass

    def __init__(self, network: Any, conditions: Conditions, **further: Any) -> None:
        super().__init__(network, conditions)
        for name, other in further.items():
            setattr(self, name, Pass(other, conditions))


def first_frames(latent_BCTHW: Tensor, share: float, *key: object) -> FirstFrames | None:
    """A share of the samples, drawn by ``key``, given the first frame of their latent; or None."""
    if not share:
        return None
    lot_B = torch.rand(len(latent_BCTHW), generator=keyed_generator(*key, "first frame"))
    return FirstFrames(latent_BCTHW[:, :, :1], (lot_B < share).to(latent_BCTHW.device))
