"""The training of a network that predicts velocities, by an objective.

B samples, C latent channels, T H W the latent grid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelwizard.config.generate import ATTENTION
from pixelwizard.config.geometry import PATCH, Geometry
from pixelwizard.config.objective import OBJECTIVES
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch, Batches, HeldOut
from pixelwizard.data.encoding import Encoding
from pixelwizard.data.sources import open_sources
from pixelwizard.models.checkpoints import find_weights
from pixelwizard.models.lora.merge import merged
from pixelwizard.models.wan.dit import TextKeyValues, WanDiT
from pixelwizard.models.wan.files import open_weights
from pixelwizard.models.wan.layouts import official_dit
from pixelwizard.models.wan.lazy import Weight
from pixelwizard.training.data import Examples
from pixelwizard.training.first_frame import first_frames
from pixelwizard.training.networks.base import TrainedNetwork, generator
from pixelwizard.training.objectives.base import Objective
from pixelwizard.training.passes import Conditions, Passes


class VelocityNetwork(TrainedNetwork):
    """The network of a stage, towards the targets of the configured objective.

    A step has one kind of target, on every device: it is drawn from the seed and the step alone.
    """

    network: WanDiT

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.encoding = Encoding(config.backbone)
        self.objective: Objective = OBJECTIVES.make(
            config.objective.part, "objective", config=config
        )
        weights = torch.tensor(config.objective.flow.channels or [1.0])
        self.channels_C111: Tensor
        self.register_buffer("channels_C111", weights.view(-1, 1, 1, 1), persistent=False)
        self.seen: list[tuple[str, float, float, float]] = []
        self.network.checkpointing = config.trainer.gradient_checkpointing
        for network in (self.network, self.average):
            network.attention = ATTENTION.make(config.attention, "attention")

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """The size of the stage's clips."""

    @abstractmethod
    def sample(self, noise: Tensor, example: Batch) -> Tensor:
        """The latent that the averaged network makes of noise [C, T, H, W] for one example."""

    def default_start(self) -> Path:
        return find_weights(self.config.backbone, self.config.part)

    def weights_of(self, path: Path) -> Mapping[str, Weight]:
        """Those of the stage, with the LoRAs of the stage added."""
        backbone = self.config.backbone
        weights = official_dit(open_weights(path, "transformer", backbone.ema))
        return merged(backbone, self.config.part, weights)

    def open_data(self) -> Examples:
        config, sources = self.config, open_sources(self.config)
        train, held_out = sources.train, sources.held_out
        batch = config.objective.batch
        return Examples(
            train.identity,
            lambda first, *ranks: Batches(train, batch, config.seed, first, *ranks),
            HeldOut(held_out, batch) if held_out else None,
            0 if train.growing else config.data.workers,
            held_out,
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.objective.kinds

    def errors(self) -> list[tuple[str, float, float, float]]:
        rows, self.seen = self.seen, []
        return rows

    @property
    def tokens(self) -> int:
        return self.config.objective.batch * self.geometry.tokens

    def target_kind(self, batch: Batch) -> str:
        """The kind of target of a step; the objective's first while only measuring the loss."""
        if not torch.is_grad_enabled():
            return self.objective.kinds[0]
        step = batch["step"] // self.config.trainer.accumulate_grad_batches
        own = generator(self.config.seed, step, "branch")
        return self.objective.target_kind(own, self.progress)

    def anchor_of(self, batch: Batch, kept_B: Tensor, own: torch.Generator) -> Tensor | None:
        """The anchor latent as the networks get it; None for the anchor network itself."""
        return None

    def look(self, network: Any, conditions: Conditions) -> Tensor | None:
        """The network's features of the anchor."""
        return None

    @abstractmethod
    def ask(
        self, network: Any, text: TextKeyValues, features: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        """One pass of a network at ``inputs``: x_t, timestep and step size.

        Both are [B], or [B, 2] for the first latent frame and the others.
        """

    def passes(self, network: Any, batch: Batch, own: torch.Generator) -> Passes:
        """The networks with the conditions of a batch, some of them dropped."""
        latent = batch["latent"]
        kept_B = torch.rand(len(latent), generator=own) >= self.config.objective.flow.text_drop
        rows = zip(batch["text"], batch["empty"], kept_B.tolist(), strict=True)
        frames, height, width = latent.shape[2:]
        conditions = Conditions(
            texts=[(text if kept else empty).to(self.device) for text, empty, kept in rows],
            empty=[empty.to(self.device) for empty in batch["empty"]],
            kept_B=kept_B,
            grid=(frames, height // PATCH, width // PATCH),
            anchor=self.anchor_of(batch, kept_B, own),
            first=first_frames(
                latent.float(),
                self.config.objective.flow.first_frame,
                *(self.config.seed, batch["step"], self.global_rank),
            ),
        )
        return Passes(network, conditions, self.ask, self.look)

    def loss(self, network: Any, batch: Batch) -> Tensor:
        batch = self.encoded(batch)
        own = generator(self.config.seed, batch["step"], self.global_rank, "samples")
        kind, passes = self.target_kind(batch), self.passes(network, batch, own)
        target = self.objective.target(kind, passes, batch["latent"].float(), own)
        found = passes(target.x_t, target.timestep_B, target.step_size_B)
        error_BCTHW = (found.float() - target.velocity).square() * self.channels_C111
        first = passes.conditions.first
        error_B = first.mean_error(error_BCTHW) if first else error_BCTHW.flatten(1).mean(1)
        if torch.is_grad_enabled() and self.global_rank == 0:
            values = (target.timestep_B, target.step_size_B, error_B.detach())
            self.seen += [(kind, *row) for row in zip(*(v.tolist() for v in values), strict=True)]
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
