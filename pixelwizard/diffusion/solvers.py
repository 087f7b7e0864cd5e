"""Solvers of the flow's differential equation: a solver is a function, sampling is a loop.

An ``advance`` function takes the sigmas, the index of the step, the latent x at its start, the
velocity there and the tensors it kept from earlier steps; it returns the latent at the step's
end and the tensors to keep. Latents and histories are float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Sequence

import torch
from torch import Tensor

from pixelwizard.diffusion.flow import x0_from_velocity
from pixelwizard.diffusion.schedules import Schedule, Step

History = tuple[Tensor, ...]
Velocity = Callable[[Tensor, Step], Tensor]
Advance = Callable[[Sequence[float], int, Tensor, Tensor, History], tuple[Tensor, History]]


@dataclass(frozen=True)
class SolverState:
    """Everything that the rest of a sampling run depends on, after ``step`` finished steps."""

    step: int
    latent: Tensor
    history: History = ()

    def to_tensors(self) -> dict[str, Tensor]:
        """As a flat dict, to be written to a file."""
        kept = {f"history.{index}": tensor for index, tensor in enumerate(self.history)}
        return {"step": torch.tensor(self.step), "latent": self.latent, **kept}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SolverState:
        """The inverse of ``to_tensors``."""
        kept = tuple(tensors[f"history.{index}"] for index in range(len(tensors) - 2))
        return cls(int(tensors["step"]), tensors["latent"], kept)


def sample(
    velocity: Velocity,
    noise: Tensor,
    schedule: Schedule,
    *,
    state: SolverState | None = None,
    on_step: Callable[[SolverState], None] | None = None,
) -> Tensor:
    """Integrates ``velocity(x, step)`` from ``noise`` to data -> float32, shaped like ``noise``.

    ``on_step`` receives the state after every step; a run that is given such a state continues
    from there and ends in the same bits.
    """
    advance = SOLVERS[schedule.solver]
    state = state or SolverState(0, noise.float())
    for index in range(state.step, len(schedule.steps)):
        v = velocity(state.latent, schedule.steps[index]).float()
        latent, history = advance(schedule.sigmas, index, state.latent, v, state.history)
        state = SolverState(index + 1, latent, history)
        if on_step is not None:
            on_step(state)
    return state.latent


def euler(
    sigmas: Sequence[float], index: int, x: Tensor, v: Tensor, history: History
) -> tuple[Tensor, History]:
    """x + (sigma_next - sigma) v."""
    return x + (sigmas[index + 1] - sigmas[index]) * v, ()


def dpmpp(
    sigmas: Sequence[float], index: int, x: Tensor, v: Tensor, history: History
) -> tuple[Tensor, History]:
    """DPM-Solver++(2M), midpoint, the last step of first order (arXiv 2211.01095).

    Keeps the previous prediction of x0.
    """
    s, t = sigmas[index], sigmas[index + 1]
    x0 = x0_from_velocity(x, v, s)
    direction = x0
    if history and t > 0:
        (previous,) = history
        ratio = (_log_snr(s) - _log_snr(sigmas[index - 1])) / (_log_snr(t) - _log_snr(s))
        direction = x0 + (x0 - previous) / (2 * ratio)
    return t / s * x + _data_weight(s, t) * direction, (x0,)


def unipc(
    sigmas: Sequence[float], index: int, x: Tensor, v: Tensor, history: History
) -> tuple[Tensor, History]:
    """UniPC of order 2, variant B2, predicting x0 (arXiv 2302.04867).

    Each step first corrects its own starting point with the velocity found there, then predicts
    the next point. Keeps the corrected point and the last one or two predictions of x0.
    """
    s, t = sigmas[index], sigmas[index + 1]
    x0 = x0_from_velocity(x, v, s)
    if history:
        x = _correct(sigmas, index, x0, *history)
    previous = history[1] if history else None
    direction = x0
    if previous is not None and t > 0:
        rate = (_log_snr(sigmas[index - 1]) - _log_snr(s)) / (_log_snr(t) - _log_snr(s))
        direction = x0 + (previous - x0) / (2 * rate)
    latent = t / s * x + _data_weight(s, t) * direction
    kept = (x, x0) if previous is None else (x, x0, previous)
    return latent, kept


def _correct(
    sigmas: Sequence[float], index: int, x0: Tensor, start: Tensor, m0: Tensor, *older: Tensor
) -> Tensor:
    """The point at ``sigmas[index]``, corrected by the prediction ``x0`` made there.

    ``start`` is the corrected point one step earlier, ``m0`` and ``older`` the predictions of x0
    one and two steps earlier.
    """
    s, t = sigmas[index - 1], sigmas[index]
    change = (x0 - m0) / 2
    if older:
        h = _log_snr(t) - _log_snr(s)
        rate = (_log_snr(sigmas[index - 2]) - _log_snr(s)) / h
        first = -1 / h - 1 / math.expm1(-h)  # the two right-hand sides of UniPC's equation (9)
        second = -2 * first / h - 1 / math.expm1(-h)
        weight_older = (first - second) / (1 - rate)
        change = weight_older * (older[0] - m0) / rate + (first - weight_older) * (x0 - m0)
    return t / s * start + _data_weight(s, t) * (m0 + change)


def _data_weight(s: float, t: float) -> float:
    """Weight of x0 in an exponential step from sigma s to t: alpha_t (1 - exp(-h))."""
    return (1 - t) - (1 - s) * t / s


def _log_snr(sigma: float) -> float:
    """lambda = log(alpha / sigma), minus infinity at pure noise and infinity at data."""
    if sigma <= 0:
        return math.inf
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


SOLVERS: dict[str, Advance] = {"euler": euler, "unipc": unipc, "dpmpp": dpmpp}
