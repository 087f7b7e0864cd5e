"""Sampling: a solver taken along a schedule, with a state that can be saved at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixelwizard.diffusion.schedules import SOLVER, TRAIN_TIMESTEPS, Schedule, Step

Velocity = Callable[[Tensor, Step], Tensor]
"""The network's velocity at a latent, told what the step says."""


@dataclass(frozen=True)
class SolverState:
    """Everything that the rest of a sampling run depends on, after ``step`` finished steps."""

    step: int
    latent: Tensor
    history: tuple[Tensor, ...] = ()

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
    from there and ends in the same bits. Raises ValueError where a solver asks the network more or
    less often than its ``evaluations`` says, as plans and NFE would be wrong.
    """
    solver = SOLVER.make(schedule.solver, "solver")
    state = state or SolverState(0, noise.float())
    for index in range(state.step, len(schedule.steps)):
        step = schedule.steps[index]
        ask = _Ask(velocity, step)
        latent, history = solver.step(schedule.sigmas, index, state.latent, ask, state.history)
        if ask.count != step.evaluations:
            raise ValueError(
                f"{type(solver).__name__} asked the network {ask.count} times in step {index};"
                f" its evaluations() says {step.evaluations}"
            )
        state = SolverState(index + 1, latent.float(), history)
        if on_step is not None:
            on_step(state)
    return state.latent


class _Ask:
    """The velocity as a solver asks for it inside one step, anywhere along the path; counted.

    The network is told the step's own time and, elsewhere than at its start, 1000 sigma.
    """

    def __init__(self, velocity: Velocity, step: Step) -> None:
        self.velocity, self.step, self.count = velocity, step, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.count += 1
        step = self.step
        if sigma != step.sigma:
            step = replace(step, sigma=sigma, timestep=TRAIN_TIMESTEPS * sigma)
        return self.velocity(x, step).float()
