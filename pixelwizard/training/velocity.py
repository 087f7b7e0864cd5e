"""The training of the anchor and of the detail network, by an objective.

B samples, C latent channels, T H W the latent grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pixelwizard.config.geometry import PATCH
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch
from pixelwizard.data.encoding import Encoding
from pixelwizard.diffusion.flow import noise_like
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import TextKeyValues, WanDiT
from pixelwizard.training.modules import TrainingModule, generator, per_sample
from pixelwizard.training.objectives import make_objective
from pixelwizard.training.objectives.flow import FLOW
from pixelwizard.training.objectives.targets import NetworkVelocity


@dataclass(frozen=True)
class Seen:
    """What a step predicted where, one value per sample: for losses by kind, time and step size."""

    branch: str
    timestep_B: Tensor
    step_size_B: Tensor
    error_B: Tensor


class VelocityModule(TrainingModule):
    """A network that predicts velocities, towards the targets of the configured objective.

    A step has one kind of target, on every device: it is drawn from the seed and the step alone.
    """

    def __init__(self, config: TrainConfig, network: nn.Module, encoding: Encoding) -> None:
        super().__init__(config, network)
        self.encoding = encoding
        self.objective = make_objective(config)
        weights = torch.tensor(config.objective.flow.channels or [1.0])
        self.channels_C111: Tensor
        self.register_buffer("channels_C111", weights.view(-1, 1, 1, 1), persistent=False)
        self.seen: list[Seen] = []
        if isinstance(self.network, WanDiT):
            self.network.checkpointing = config.trainer.gradient_checkpointing

    @property
    def tokens(self) -> int:
        size = self.config.resolution
        grid = size.anchor_geometry if self.config.part == "anchor" else size.geometry
        return self.config.objective.batch * grid.tokens

    def branch(self, batch: Batch) -> str:
        """The kind of target of a step; that of flow while only measuring the loss."""
        if not torch.is_grad_enabled():
            return FLOW
        step = batch["step"] // self.config.trainer.accumulate
        return self.objective.branch(generator(self.config.seed, step, "branch"), self.progress)

    def velocity_of(
        self, network: Any, text: TextKeyValues, batch: Batch, kept_B: Tensor, draw: torch.Generator
    ) -> NetworkVelocity:
        """The network as a function of (x_t, t, dt), its conditions given; no step size here."""
        return lambda x_t, time_B, size_B: network(x_t, time_B, text)

    def loss(self, network: Any, batch: Batch) -> Tensor:
        batch = self.encoded(batch)
        x0_BCTHW, key = batch["latent"].float(), (self.config.seed, batch["step"])
        draw, branch = generator(*key, self.global_rank, "samples"), self.branch(batch)
        kept_B = torch.rand(len(x0_BCTHW), generator=draw) >= self.config.objective.flow.text_drop
        rows = zip(batch["text"], batch["empty"], kept_B.tolist(), strict=True)
        chosen = [(text if kept else empty).to(self.device) for text, empty, kept in rows]
        text = network.encode_text(chosen)
        velocity = self.velocity_of(network, text, batch, kept_B, draw)
        target = self.objective.target(branch, velocity, x0_BCTHW, draw)
        found = velocity(target.x_t, target.timestep_B, target.step_size_B)
        error_BCTHW = (found.float() - target.velocity).square() * self.channels_C111
        error_B = error_BCTHW.flatten(1).mean(1)
        if torch.is_grad_enabled() and self.global_rank == 0:
            self.seen.append(Seen(branch, target.timestep_B, target.step_size_B, error_B.detach()))
        return (target.weight_B * error_B).mean()

    @torch.no_grad()
    def encoded(self, batch: Batch) -> Batch:
        """The batch with latents and embeddings, made of pixels and captions where it has these."""
        if "latent" in batch:
            return batch
        device, names = self.device, {"video": "latent", "small": "condition"}
        with torch.autocast(device.type, enabled=False):
            latents = {
                names[name]: torch.stack([self.encoding.latent(v.to(device)) for v in batch[name]])
                for name in names
                if name in batch
            }
            texts = self.encoding.texts(batch["caption"], device)
            empty = self.encoding.texts([""], device) * len(texts)
        return {**batch, **latents, "text": texts, "empty": empty}


class DetailModule(VelocityModule):
    """The detail network: it is told the step size and given an anchor.

    Flow matching alone leaves the embedding of step sizes at zero: it would only learn a bias.
    """

    network: ShortcutDiT

    def __init__(self, config: TrainConfig, network: nn.Module, encoding: Encoding) -> None:
        super().__init__(config, network, encoding)
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
        noise = noise_like(anchor_BCTHW, draw)
        noisy = anchor_BCTHW + noise * per_sample(level_B).to(anchor_BCTHW)
        return noisy * per_sample(kept_B).to(noisy)
