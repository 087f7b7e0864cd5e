"""Flow maps without a teacher and without forward-mode derivatives: AnyFlow's first stage.

Source: arXiv 2605.13724 and NVlabs/AnyFlow (``trainer_wan_anyflow_pretrain.py``, Apache-2.0). In
steps of kind ``map`` the mean velocity from sigma to r = sigma - d obeys u = v - (sigma - r)
du/dsigma, the derivative along the path at fixed r (MeanFlow's identity, arXiv 2505.13447, eq. 6),
so

    target = v - d sg[du/dsigma],  v = noise - x0,  du/dsigma by a central difference of 2 passes.

With guidance g the student's error is that of (u - (1 - g) sg[u without text]) / g, so its own
target is g v + (1 - g) u_without - d du/dsigma, weighted by 1 / g^2. The loss of a map is
multiplied by sg[m / (loss + 1e-5)], m the mean loss of flow matching: here a running mean, as a
step has samples of one kind. Both times are uniform before the shift; the later is sigma, r the
earlier or 0. Without gradients: everything but the student's one pass. No teacher. Passes of a
map: 1 with gradient and 2 without (3 with guidance); of the other steps those of ``flow``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import noise_like, per_sample
from pixelwizard.diffusion.schedules import TRAIN_TIMESTEPS, shift_sigma
from pixelwizard.training.objectives.base import FLOW, Target
from pixelwizard.training.objectives.flow import Flow
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import by_differences, flow_matching_target

MAP = "map"
KEPT = 0.9
"""How much of the running mean of the flow-matching loss stays at each of its steps."""


class FlowMap(Flow):
    """Maps from any time to any earlier one in some steps, flow matching in the others."""

    kinds = (FLOW, MAP)
    uses_step_sizes = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.settings = config.objective.flow_map
        self.probability = self.settings.probability
        self.flow_error = nn.Buffer(torch.tensor(0.0))

    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        if kind == FLOW:
            return super().target(kind, network, x0, generator)
        time_B, size_B = self.sample(len(x0), generator)
        weight_B = self.grid.weight(time_B).to(x0)
        time_B, size_B = time_B.to(x0), size_B.to(x0)
        x_t, velocity = flow_matching_target(x0, noise_like(x0, generator), time_B)
        change = by_differences(
            network.exact, x_t, time_B, size_B, velocity, self.settings.difference
        )
        velocity, weight_B = self.fused(network, velocity, weight_B, x_t, time_B, size_B)
        velocity = velocity - per_sample(size_B / TRAIN_TIMESTEPS) * change
        rescale = self.balanced if self.settings.balance else None
        return Target(x_t, time_B, size_B, velocity, weight_B, rescale)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps and step sizes [B]: both ends uniform before the shift, some ends 0."""
        even_2B = torch.rand(2, count, generator=generator).sort(dim=0).values
        end_B, time_B = TRAIN_TIMESTEPS * shift_sigma(even_2B, self.shift)
        to_data = torch.rand(count, generator=generator) < self.settings.to_data
        return time_B, time_B - torch.where(to_data, 0.0, end_B)

    def balanced(self, error_B: Tensor) -> Tensor:
        """The factors that give a map the loss of flow matching, 1 before there was any."""
        if not self.flow_error:
            return torch.ones_like(error_B)
        return self.flow_error / (error_B + 1e-5)

    def learn(self, kind: str, error: float) -> None:
        if kind == FLOW:
            kept = KEPT if self.flow_error else 0.0
            self.flow_error.mul_(kept).add_((1 - kept) * error)
