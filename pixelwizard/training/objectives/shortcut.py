"""Flow matching, and in some steps self-consistency: noise-span aligned shortcut training.

The source is PixelWizard (arXiv 2605.25801), after shortcut models (arXiv 2410.12557), which the
settings can turn it back into.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pixelwizard.config.objective import FlowSettings, ShortcutSettings
from pixelwizard.diffusion.flow import noise_like
from pixelwizard.diffusion.schedules import Schedule
from pixelwizard.training.objectives.flow import FLOW, FlowObjective, Target
from pixelwizard.training.objectives.targets import (
    NetworkVelocity,
    flow_matching_target,
    noise_span_weights,
    reference_steps,
    sample_shortcuts,
    scheduled_steps,
    self_consistency_target,
)

CONSISTENCY = "consistency"


class ShortcutObjective(FlowObjective):
    """Self-consistency in some of the steps, flow matching in the others.

    ``schedules`` are those that ``sampling=schedules`` draws its steps from.
    """

    def __init__(
        self,
        flow: FlowSettings,
        shift: float,
        settings: ShortcutSettings,
        schedules: Iterable[Schedule],
    ) -> None:
        super().__init__(flow, shift)
        self.settings = settings
        self.reference = reference_steps(self.grid, settings)
        scheduled = settings.sampling == "schedules"
        self.steps = scheduled_steps(schedules) if scheduled else self.reference

    def branch(self, draw: torch.Generator, progress: float) -> str:
        lucky = bool(torch.rand((), generator=draw) < self.settings.probability)
        return CONSISTENCY if lucky and progress >= self.settings.start else FLOW

    def target(
        self, branch: str, network: NetworkVelocity, x0: Tensor, draw: torch.Generator
    ) -> Target:
        if branch == FLOW:
            return super().target(branch, network, x0, draw)
        rule = self.settings
        time_B, size_B = self.sample(len(x0), draw)
        weight_B = noise_span_weights(
            time_B, size_B, self.grid, rule.span_exponent, rule.span_limits
        )
        noise = noise_like(x0, draw)
        time_B, size_B = time_B.to(x0), size_B.to(x0)
        x_t, _ = flow_matching_target(x0, noise, time_B)
        velocity = self_consistency_target(network, x_t, time_B, size_B, self.grid, rule.half_step)
        return Target(x_t, time_B, size_B, velocity, weight_B.to(x0))

    def sample(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps and step sizes [B], a share of them by the reference's rule."""
        chosen = sample_shortcuts(count, self.steps, self.settings, draw)
        if not self.settings.reference_share:
            return chosen
        others = sample_shortcuts(count, self.reference, self.settings, draw)
        by_rule = torch.rand(count, generator=draw) < self.settings.reference_share
        time_B, size_B = (torch.where(by_rule, o, c) for o, c in zip(others, chosen, strict=True))
        return time_B, size_B
