"""The anchor network: low resolution, from noise and text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pixelwizard.config.geometry import Geometry
from pixelwizard.data.batches import Batch
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.shortcut.network import AnyFlowDiT, SteppedDiT
from pixelwizard.models.wan.dit import TextKeyValues, WanDiT
from pixelwizard.models.wan.files import Weight
from pixelwizard.models.weights import anchor_class
from pixelwizard.stages.latents import Anchor
from pixelwizard.training.velocity import VelocityNetwork, objective_class


class TrainedAnchor(VelocityNetwork):
    """Wan's own network, with step-size conditioning where the objective trains it."""

    @property
    def geometry(self) -> Geometry:
        return self.config.resolution.anchor_geometry

    def make(self) -> WanDiT:
        stepped = objective_class(self.config).uses_step_sizes
        return (SteppedDiT if stepped else WanDiT)(self.config.backbone.dit)

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

    def ask(
        self, network: Any, text: TextKeyValues, features: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        steps = inputs if isinstance(network, SteppedDiT) else inputs[:2]
        x_t, time_B, *size_B = steps
        return network(x_t, time_B, text, *size_B)

    def sample(self, noise: Tensor, example: Batch) -> Tensor:
        sampler = self.config.anchor
        schedule = make_schedule(sampler, self.config.resolution.anchor_shift)
        stage = Anchor(self.average, schedule, sampler.guidance)
        return stage(noise, example["text"], example["empty"])
