"""Flow matching: the velocity of the straight path, at one time per sample and with dt = 0.

Target v = noise - x0 (arXiv 2210.02747, eq. 23 for straight paths); one pass with gradient. With
``guidance`` g the target is g v + (1 - g) sg[u(x, t | no text)], weighted by 1 / g^2: AnyFlow's
regression of (u - (1 - g) sg[u without text]) / g on v (arXiv 2605.13724). A converged network is
then guided by itself. One pass more, without gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import noise_like, per_sample
from pixelwizard.training.objectives.base import Objective, Target
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import TrainingGrid, flow_matching_target


class Flow(Objective):
    """Flow matching alone would teach the step-size conditioning no more than a bias."""

    uses_step_sizes = False

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.guidance = config.objective.flow.guidance

    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        time_B = spread_times(len(x0), self.grid, generator)
        weight_B, time_B = self.grid.weight(time_B).to(x0), time_B.to(x0)
        x_t, velocity = flow_matching_target(x0, noise_like(x0, generator), time_B)
        size_B = torch.zeros_like(time_B)
        velocity, weight_B = self.fused(network, velocity, weight_B, x_t, time_B, size_B)
        return Target(x_t, time_B, size_B, velocity, weight_B)

    def fused(
        self, network: Passes, velocity: Tensor, weight_B: Tensor, *at: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A velocity and its weight with guidance trained in; those without text stay.

        ``at``: where it is asked for, x_t, timestep and step size.
        """
        g = self.guidance
        if g == 1:
            return velocity, weight_B
        kept_B = network.conditions.kept_B.to(velocity.device)
        without = network.empty(*at)
        guided = torch.where(per_sample(kept_B), g * velocity + (1 - g) * without, velocity)
        return guided, torch.where(kept_B, weight_B / g**2, weight_B)


def spread_times(count: int, grid: TrainingGrid, generator: torch.Generator) -> Tensor:
    """Timesteps [B]: one from each of B equal parts of the training grid, in random order."""
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    index = (places * len(grid.timesteps)).long()
    return grid.timesteps[index[torch.randperm(count, generator=generator)]]
