"""Flow matching: the velocity of the straight path, at one time per sample and with dt = 0."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.diffusion.sampling import noise_like
from pixelwizard.training.objectives.base import Objective, Target
from pixelwizard.training.targets import NetworkVelocity, TrainingGrid, flow_matching_target


class Flow(Objective):
    """Flow matching alone would teach the step-size conditioning no more than a bias."""

    uses_step_sizes = False

    def target(
        self, kind: str, network: NetworkVelocity, x0: Tensor, generator: torch.Generator
    ) -> Target:
        time_B = spread_times(len(x0), self.grid, generator)
        weight_B, time_B = self.grid.weight(time_B).to(x0), time_B.to(x0)
        noise = noise_like(x0, generator)
        x_t, velocity = flow_matching_target(x0, noise, time_B)
        return Target(x_t, time_B, torch.zeros_like(time_B), velocity, weight_B)


def spread_times(count: int, grid: TrainingGrid, generator: torch.Generator) -> Tensor:
    """Timesteps [B]: one from each of B equal parts of the training grid, in random order."""
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    index = (places * len(grid.timesteps)).long()
    return grid.timesteps[index[torch.randperm(count, generator=generator)]]
