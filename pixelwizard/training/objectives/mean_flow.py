"""MeanFlow: the mean velocity over an interval, by its identity with the velocity.

Source: arXiv 2505.13447 (eq. 6 and 10; guidance eq. 19-21) and Gsunshine/meanflow (MIT). With r =
sigma - d

    target = sg[v_g - d du/dsigma],  du/dsigma = the derivative along (v_g, 1, 0) of (x, sigma, r),
    v_g = w v + (1 - w - k) u(x, sigma, 0 | no text) + k u(x, sigma, 0 | text),

v = noise - x0, w ``objective.flow.guidance`` and k ``mix``; the effective guidance is w / (1 - k).
The loss of a sample is its sum of squares divided by sg[(sum + offset) ^ power]. The embedding
takes d, not r, so d moves with sigma in the derivative, which is forward-mode (the source) or a
difference of two passes (FastGen for Wan, whose difference this is). ``longest`` and ``rise``
restrict the interval: short gaps first. Without gradients: everything but the student's one pass.
No teacher. Passes of an interval: 1 with gradient, 2 without (or one forward-mode pass), 1 more
with guidance, 1 with mix.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import noise_like, per_sample
from pixelwizard.diffusion.schedules import TRAIN_TIMESTEPS
from pixelwizard.training.objectives.base import FLOW, Objective, Target
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import by_differences, by_jvp, flow_matching_target

INTERVAL = "interval"


class MeanFlow(Objective):
    """Mean velocities in some steps, velocities in the others, by one loss."""

    kinds = (FLOW, INTERVAL)

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.settings, self.guidance = config.objective.mean_flow, config.objective.flow.guidance
        self.probability = self.settings.probability

    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        time_B, size_B = self.sample(len(x0), generator)
        time_B, size_B = time_B.to(x0), size_B.to(x0)
        if kind == FLOW:
            size_B = torch.zeros_like(size_B)
        x_t, velocity = flow_matching_target(x0, noise_like(x0, generator), time_B)
        velocity = self.guided(network, x_t, time_B, velocity)
        if kind == INTERVAL:
            way = (network.exact, x_t, time_B, size_B, velocity)
            exact = self.settings.derivative == "jvp"
            change = by_jvp(*way) if exact else by_differences(*way, self.settings.difference)
            velocity = velocity - per_sample(size_B / TRAIN_TIMESTEPS) * change
        rescale = partial(self.normalised, x0[0].numel())
        return Target(x_t, time_B, size_B, velocity, torch.ones_like(time_B), rescale)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps and step sizes [B]: two draws each, sorted, not farther apart than allowed."""
        rule = self.settings
        normal_2B = torch.randn(2, count, generator=generator)
        end_B, time_B = torch.sigmoid(rule.mean + rule.std * normal_2B).sort(dim=0).values
        risen = min(1.0, self.progress / rule.rise) if rule.rise else 1.0
        size_B = (time_B - end_B).clamp(max=rule.longest * risen)
        return TRAIN_TIMESTEPS * time_B, TRAIN_TIMESTEPS * size_B

    @torch.no_grad()
    def guided(self, network: Passes, x_t: Tensor, time_B: Tensor, velocity: Tensor) -> Tensor:
        """v_g: the velocity with guidance, at the times that have it, where the text is kept."""
        w, k = self.guidance, self.settings.mix
        if w == 1 and k == 0:
            return velocity
        none_B, (first, last) = torch.zeros_like(time_B), self.settings.guided_between
        mixed = w * velocity + (1 - w - k) * network.empty(x_t, time_B, none_B)
        if k:
            mixed = mixed + k * network(x_t, time_B, none_B)
        kept_B = network.conditions.kept_B.to(x_t.device)
        inside_B = kept_B & (time_B >= first) & (time_B <= last)
        return torch.where(per_sample(inside_B), mixed, velocity)

    def normalised(self, elements: int, error_B: Tensor) -> Tensor:
        """The factor from a sample's mean square to its normalised sum."""
        rule = self.settings
        return elements / (elements * error_B + rule.offset) ** rule.power
