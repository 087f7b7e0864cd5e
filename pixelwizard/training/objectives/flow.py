"""Flow matching: the velocity of the straight path, at one time per sample and with dt = 0.

B samples; the latents are [B, C, T, H, W]. Random numbers come from a generator on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelwizard.config.objective import FlowSettings
from pixelwizard.diffusion.flow import noise_like
from pixelwizard.training.objectives.targets import (
    NetworkVelocity,
    TrainingGrid,
    flow_matching_target,
    training_grid,
)

FLOW = "flow"


@dataclass(frozen=True)
class Target:
    """``velocity`` is to be predicted at (``x_t``, ``timestep_B``, ``step_size_B``)."""

    x_t: Tensor
    timestep_B: Tensor
    step_size_B: Tensor
    velocity: Tensor
    weight_B: Tensor


class FlowObjective:
    """``branch`` says which of its targets a whole step has, ``target`` makes it."""

    def __init__(self, settings: FlowSettings, shift: float) -> None:
        self.grid: TrainingGrid = training_grid(settings.shift or shift, settings)

    def branch(self, draw: torch.Generator, progress: float) -> str:
        """The kind of target of a step; ``progress`` is the share of the training that is done."""
        return FLOW

    def target(
        self, branch: str, network: NetworkVelocity, x0: Tensor, draw: torch.Generator
    ) -> Target:
        """What ``network`` shall predict for the data ``x0``, with noise from ``draw``."""
        time_B = spread_times(len(x0), self.grid, draw)
        weight_B, time_B = self.grid.weight(time_B).to(x0), time_B.to(x0)
        noise = noise_like(x0, draw)
        x_t, velocity = flow_matching_target(x0, noise, time_B)
        return Target(x_t, time_B, torch.zeros_like(time_B), velocity, weight_B)


def spread_times(count: int, grid: TrainingGrid, draw: torch.Generator) -> Tensor:
    """Timesteps [B]: one from each of B equal parts of the training grid, in random order."""
    places = (torch.arange(count) + torch.rand(count, generator=draw)) / count
    index = (places * len(grid.timesteps)).long()
    return grid.timesteps[index[torch.randperm(count, generator=draw)]]
