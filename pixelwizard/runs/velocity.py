"""The training of the anchor and of the detail network, by an objective.

B samples, C latent channels, T H W the latent grid. Random numbers are drawn on the CPU, so that
they do not depend on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixelwizard.geometry import PATCH
from pixelwizard.objectives import make_objective
from pixelwizard.objectives.flow import FLOW
from pixelwizard.runs.modules import Batch, TrainingModule, generator, per_sample
from pixelwizard.shortcut.network import ShortcutDiT
from pixelwizard.shortcut.targets import NetworkVelocity
from pixelwizard.train_settings import TrainConfig
from pixelwizard.wan.dit import TextKeyValues
from pixelwizard.wan.umt5 import TextEncoder


class TextTable:
    """Embeddings of texts by a frozen encoder, each text encoded once."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[Tensor]:
        """One [L_i, text_dim] float32 tensor per text."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self.encoder([text])[0].float()
        return [self._known[text] for text in texts]


class VelocityModule(TrainingModule):
    """A network that predicts velocities, towards the targets of the configured objective.

    A step has one kind of target, on every device: it is drawn from the seed and the step alone.
    """

    def __init__(self, config: TrainConfig, network: nn.Module, texts: TextTable) -> None:
        super().__init__(config, network)
        self.texts = texts
        self.objective = make_objective(config)

    def branch(self, step: int) -> str:
        """The kind of target of a step; that of flow while only measuring the loss."""
        if not torch.is_grad_enabled():
            return FLOW
        return self.objective.branch(generator(self.config.seed, step, "branch"), self.progress)

    def velocity_of(
        self, network: Any, text: TextKeyValues, batch: Batch, kept_B: Tensor, draw: torch.Generator
    ) -> NetworkVelocity:
        """The network as a function of (x_t, t, dt), its conditions given; no step size here."""
        return lambda x_t, time_B, size_B: network(x_t, time_B, text)

    def loss(self, network: Any, batch: Batch) -> Tensor:
        x0_BCTHW, step = batch["latent"].float(), batch["step"]
        draw, branch = generator(self.config.seed, step, "samples"), self.branch(step)
        kept_B = torch.rand(len(x0_BCTHW), generator=draw) >= self.config.objective.flow.text_drop
        text = network.encode_text(self.embeddings(batch["caption"], kept_B))
        velocity = self.velocity_of(network, text, batch, kept_B, draw)
        target = self.objective.target(branch, velocity, x0_BCTHW, draw)
        found = velocity(target.x_t, target.timestep_B, target.step_size_B)
        error_B = (found.float() - target.velocity).square().flatten(1).mean(1)
        return (target.weight_B * error_B).mean()

    def embeddings(self, captions: Sequence[str], kept_B: Tensor) -> list[Tensor]:
        """Embeddings of the captions, of the empty text where they are dropped."""
        chosen = [c if k else "" for c, k in zip(captions, kept_B.tolist(), strict=True)]
        return [embedding.to(self.device) for embedding in self.texts(chosen)]


class DetailModule(VelocityModule):
    """The detail network: it is told the step size and given an anchor.

    Flow matching alone leaves the embedding of step sizes at zero: it would only learn a bias.
    """

    network: ShortcutDiT

    def __init__(self, config: TrainConfig, network: nn.Module, texts: TextTable) -> None:
        super().__init__(config, network, texts)
        if config.objective.kind == "flow":
            self.network.dt_embedding.requires_grad_(False)

    def velocity_of(
        self, network: Any, text: TextKeyValues, batch: Batch, kept_B: Tensor, draw: torch.Generator
    ) -> NetworkVelocity:
        frames, height, width = batch["latent"].shape[2:]
        anchor = self.condition(batch["condition"].float(), kept_B, draw)
        features = network.encode_anchor(anchor, (frames, height // PATCH, width // PATCH))
        return lambda x_t, time_B, size_B: network(x_t, time_B, text, size_B, features)

    def condition(self, anchor_BCTHW: Tensor, kept_B: Tensor, draw: torch.Generator) -> Tensor:
        """The anchor as the network gets it: 0 where dropped, with noise in a share of samples."""
        rule, count = self.config.objective.condition, len(anchor_BCTHW)
        level_B = torch.rand(count, generator=draw) * rule.noise
        level_B = level_B * (torch.rand(count, generator=draw) < rule.noisy)
        noise = torch.randn(anchor_BCTHW.shape, generator=draw)
        noisy = anchor_BCTHW + (noise * per_sample(level_B)).to(anchor_BCTHW)
        return noisy * per_sample(kept_B).to(noisy)
