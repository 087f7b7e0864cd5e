"""The anchor network: low resolution, from noise and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelwizard.config.geometry import Geometry
from pixelwizard.data.batches import Batch
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.wan.dit import TextKeyValues, WanDiT
from pixelwizard.models.weights import save_network
from pixelwizard.stages.latents import Anchor
from pixelwizard.training.exports import complete_backbone
from pixelwizard.training.velocity import VelocityNetwork


class TrainedAnchor(VelocityNetwork):
    """Wan's own network, without step-size conditioning."""

    @property
    def geometry(self) -> Geometry:
        return self.config.resolution.anchor_geometry

    def make(self) -> WanDiT:
        return WanDiT(self.config.backbone.dit)

    def ask(
        self, network: Any, text: TextKeyValues, features: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        x_t, time_B, _ = inputs
        velocity: Tensor = network(x_t, time_B, text)
        return velocity

    def sample(self, noise: Tensor, example: Batch) -> Tensor:
        sampler = self.config.anchor
        schedule = make_schedule(sampler, self.config.resolution.anchor_shift)
        stage = Anchor(self.average, schedule, sampler.guidance)
        return stage(noise, example["text"], example["empty"])

    def export(self, folder: Path, average: Any, last: Any) -> None:
        save_network(average, "anchor", folder, torch.float32)
        complete_backbone(self.config, folder, average, last)
