"""The anchor network: low resolution, from noise and text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pixelwizard.config.objective import OBJECTIVES
from pixelwizard.data.batches import Batch
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.shortcut.network import AnyFlowDiT, SteppedDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.files import Weight
from pixelwizard.models.weights import anchor_class
from pixelwizard.stages.latents import Anchor
from pixelwizard.training.velocity import VelocityNetwork


class TrainedAnchor(VelocityNetwork):
    """Wan's own network, with step-size conditioning where the objective trains it."""

    def make(self) -> WanDiT:
        objective: Any = OBJECTIVES.load(self.config.objective.part, "objective")
        return (SteppedDiT if objective.uses_step_sizes else WanDiT)(self.config.backbone.dit)

    def additions(self, network: nn.Module) -> set[str]:
        """The step embedding, which Wan's weights lack."""
        return {name for name in network.state_dict() if name.startswith("dt_embedding.")}

    def published(self, path: Path) -> Mapping[str, Weight]:
        weights = super().published(path)
        if anchor_class(weights) is AnyFlowDiT:
            raise ValueError(
                f"{path} has AnyFlow's step-size conditioning, which can be sampled but not"
                " trained; start from Wan's weights"
            )
        return weights

    def sample(self, noise: Tensor, example: Batch) -> Tensor:
        sampler = self.config.anchor
        schedule = make_schedule(sampler, self.config.resolution.anchor_shift)
        stage = Anchor(self.average, schedule, sampler.guidance)
        return stage(noise, example["text"], example["empty"])
