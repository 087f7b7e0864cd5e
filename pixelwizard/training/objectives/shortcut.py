"""Flow matching, and in some steps self-consistency: noise-span aligned shortcut training.

The source is PixelWizard (arXiv 2605.25801), after shortcut models (arXiv 2410.12557), which other
settings reproduce.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import noise_like
from pixelwizard.diffusion.schedules import Schedule, make_schedule
from pixelwizard.training.objectives.base import FLOW, Target
from pixelwizard.training.objectives.flow import Flow
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import (
    flow_matching_target,
    noise_span_weights,
    reference_steps,
    sample_shortcuts,
    scheduled_steps,
    self_consistency_target,
)

CONSISTENCY = "consistency"


class Shortcut(Flow):
    """Self-consistency in some of the steps, flow matching in the others."""

    kinds = (FLOW, CONSISTENCY)
    uses_step_sizes = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.settings = config.objective.shortcut
        self.probability = self.settings.probability
        self.reference = reference_steps(self.grid, self.settings)
        scheduled = self.settings.sampling == "schedules"
        self.steps = scheduled_steps(schedules_to_use(config)) if scheduled else self.reference

    def target_kind(self, generator: torch.Generator, progress: float) -> str:
        return super().target_kind(generator, progress) if progress >= self.settings.start else FLOW

    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        if kind == FLOW:
            return super().target(kind, network, x0, generator)
        rule = self.settings
        time_B, size_B = self.sample(len(x0), generator)
        weight_B = noise_span_weights(time_B, size_B, self.grid, rule)
        time_B, size_B = time_B.to(x0), size_B.to(x0)
        x_t, _ = flow_matching_target(x0, noise_like(x0, generator), time_B)
        velocity = self_consistency_target(network, x_t, time_B, size_B, self.grid, rule.half_step)
        return Target(x_t, time_B, size_B, velocity, weight_B.to(x0))

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps and step sizes [B], a share of them by upstream's rule."""
        chosen = sample_shortcuts(count, self.steps, self.settings, generator)
        share = self.settings.reference_share
        if not share:
            return chosen
        others = sample_shortcuts(count, self.reference, self.settings, generator)
        by_rule = torch.rand(count, generator=generator) < share
        time_B, size_B = (torch.where(by_rule, o, c) for o, c in zip(others, chosen, strict=True))
        return time_B, size_B


def schedules_to_use(config: TrainConfig) -> list[Schedule]:
    """The schedules to train for, with their step sizes."""
    rule, size = config.objective.shortcut, config.resolution
    sampler = replace(
        config.schedule, skip="none", timesteps=None, step_sizes="raw", guided_steps=None
    )
    return [
        make_schedule(replace(sampler, steps=steps), shift)
        for steps in rule.steps
        for shift in rule.shifts or [size.shift]
    ]
