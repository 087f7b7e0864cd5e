"""Consistency distillation: all points of a teacher's path learn the same clean latent.

A consistency function is f(x, sigma) = x - sigma u(x, sigma, d = sigma): a step to 0, exact at
sigma 0.

``discrete`` (LCM, arXiv 2310.04378, eq. 14, without its skip weights, which a flow does not need):
on ``parts`` equal parts of the path before the shift, s to s' ``skip`` parts on,

    x' = x + (s' - s) v_T,  target of f(x, s): sg[f(x', s')], loss scale |f - target|^2,

so the velocity's target is (x - f(x', s')) / s, weighted by scale s^2. The target network is the
live student. Passes: 1 with gradient; without, 1 of the student and 1 of the teacher (2 guided).

``continuous`` (sCM, arXiv 2410.11081, eq. 6 and 8; rCM, 2510.08431, ``fd_type``): the limit of
small parts, target v_T - w sigma du/dsigma along (v_T, 1, d = sigma), w rising over ``warmup``
steps, the gradient divided by (its root mean square + ``offset``). Passes: 1 with gradient;
without, 2 of the student and 1 of the teacher (2 guided).

Without gradients: everything but the student's one pass. Teacher: frozen, with ``guidance``.
Sampled by steps to 0 with fresh noise between; more than four steps hardly help.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import noise_like, per_sample
from pixelwizard.diffusion.schedules import TRAIN_TIMESTEPS, shift_sigma
from pixelwizard.training.objectives.base import Objective, Target
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import by_differences, flow_matching_target

CONSISTENCY = "consistency"


class Consistency(Objective):
    """The student's steps to 0 agree along a teacher's path."""

    kinds = (CONSISTENCY,)
    networks = ("teacher",)

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.settings = config.objective.consistency
        self.sampled_with = "whole"

    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        discrete = self.settings.kind == "discrete"
        sample = self.neighbours if discrete else self.log_normal
        time_B, next_B = (values.to(x0) for values in sample(len(x0), generator))
        x_t, _ = flow_matching_target(x0, noise_like(x0, generator), time_B)
        with torch.no_grad():
            none_B = torch.zeros_like(time_B)
            teacher = network.teacher.guided(self.settings.guidance, x_t, time_B, none_B)
            make = self.discrete if discrete else self.continuous
            return make(network, x_t, time_B, next_B, teacher)

    def neighbours(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps [B] of points of the path, and of the points ``skip`` parts on."""
        rule = self.settings
        place_B = torch.randint(1, rule.parts + 1, (count,), generator=generator)
        pair_2B = torch.stack([place_B, (place_B - rule.skip).clamp(min=0)]) / rule.parts
        time_B, next_B = TRAIN_TIMESTEPS * shift_sigma(pair_2B, self.shift)
        return time_B, next_B

    def log_normal(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps [B], sigma / (1 - sigma) log-normal, twice: a point is its own neighbour."""
        normal_B = torch.randn(count, generator=generator)
        time_B = TRAIN_TIMESTEPS * torch.sigmoid(self.settings.mean + self.settings.std * normal_B)
        return time_B, time_B

    def discrete(
        self, network: Passes, x_t: Tensor, time_B: Tensor, next_B: Tensor, teacher: Tensor
    ) -> Target:
        """The neighbour's clean latent, reached by one step of the teacher."""
        sigma_B, next_sigma_B = time_B / TRAIN_TIMESTEPS, next_B / TRAIN_TIMESTEPS
        x_next = x_t + per_sample(next_sigma_B - sigma_B) * teacher
        clean = x_next - per_sample(next_sigma_B) * network(x_next, next_B, next_B)
        velocity = (x_t - clean) / per_sample(sigma_B)
        return Target(x_t, time_B, time_B, velocity, self.settings.scale * sigma_B**2)

    def continuous(
        self, network: Passes, x_t: Tensor, time_B: Tensor, next_B: Tensor, teacher: Tensor
    ) -> Target:
        """The limit of near neighbours."""
        rule, sigma_B = self.settings, time_B / TRAIN_TIMESTEPS
        change = by_differences(network.exact, x_t, time_B, time_B, teacher, rule.difference)
        risen = min(1.0, (self.step + 1) / rule.warmup) if rule.warmup else 1.0
        velocity = teacher - risen * per_sample(sigma_B) * change
        ones_B = torch.ones_like(time_B)
        return Target(x_t, time_B, time_B, velocity, ones_B, self.normalised)

    def normalised(self, error_B: Tensor) -> Tensor:
        """The factor that divides the gradient by its size."""
        return 1 / (error_B.sqrt() + self.settings.offset)
