"""The training of a network that predicts velocities, by an objective.

B samples, C latent channels, T H W the latent grid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixelwizard.config.generate import ATTENTION
from pixelwizard.config.geometry import PATCH, Geometry
from pixelwizard.config.targets import title
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch, Batches, HeldOut
from pixelwizard.data.latents import Encoding
from pixelwizard.data.sources import open_sources
from pixelwizard.diffusion.sampling import keyed_generator
from pixelwizard.models.checkpoints import find_weights
from pixelwizard.models.lora.adapter import is_adapter
from pixelwizard.models.lora.merge import merged
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.files import Weight, open_weights
from pixelwizard.models.wan.layouts import official_dit
from pixelwizard.training.data import Examples
from pixelwizard.training.exports import export_backbone
from pixelwizard.training.networks.base import TrainedNetwork
from pixelwizard.training.objectives.base import Target, make_objective
from pixelwizard.training.passes import Conditions, Passes, first_frames
from pixelwizard.training.starts import TEACHER, adapt, start_from, teacher_file, twin

SCORE = "score"
"""The further network that is trained beside the student, and the kind of step that trains it."""
SLACK = 4.0
"""By how much a step may be larger than its timestep: times are snapped to the training grid."""


class VelocityNetwork(TrainedNetwork):
    """The network of a stage, towards the targets of the configured objective.

    A step has one kind of target, on every device: it is drawn from the seed and the step alone.
    """

    network: WanDiT

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.encoding = Encoding(config.backbone)
        self.objective = make_objective(config)
        weights = torch.tensor(config.objective.flow.channels or [1.0])
        self.channels_C111 = nn.Buffer(weights.view(-1, 1, 1, 1), persistent=False)
        self.seen: list[tuple[str, float, float, float]] = []
        self.network.checkpointing = config.trainer.gradient_checkpointing
        self.kind = self.objective.kinds[0]
        self._errors: list[Tensor] = []
        self.further = nn.ModuleDict({n: self.make_further(n) for n in self.objective.networks})
        # what is frozen, a teacher or the network under a LoRA, is in no checkpoint
        self.strict_loading = self.objective.keeps_teacher and not config.adapter.used
        for network in self.networks:
            network.attention = ATTENTION.make(config.attention, "attention")

    @property
    def geometry(self) -> Geometry:
        """The size of the stage's clips."""
        size = self.config.resolution
        return size.anchor_geometry if self.config.part == "anchor" else size.geometry

    @abstractmethod
    def sample(self, noise: Tensor, example: Batch) -> Tensor:
        """The latent that the averaged network makes of noise [C, T, H, W] for one example."""

    def export(self, folder: Path, average: Any, last: Any) -> None:
        export_backbone(self.config, folder, average, last)

    def default_start(self) -> Path:
        return find_weights(self.config.backbone, self.config.part)

    def weights_of(self, path: Path) -> Mapping[str, Weight]:
        """Those of the stage, with the LoRAs of the stage added."""
        return merged(self.config.backbone, self.config.part, self.published(path))

    def published(self, path: Path) -> Mapping[str, Weight]:
        """The weights of a transformer's file."""
        return official_dit(open_weights(path, "transformer", self.config.backbone.ema))

    @property
    def networks(self) -> list[Any]:
        return [*super().networks, *self.further.values()]

    @property
    def trained(self) -> list[tuple[Any, float]]:
        score = [(self.further[SCORE], self.objective.score_lr)] if SCORE in self.further else []
        return [*super().trained, *score]

    def make_further(self, name: str) -> WanDiT:
        """A further network of the objective, with the weights of its teacher.

        Beside a LoRA it has one too, on the same frozen weights unless the teacher has others.
        """
        adapter, taught = self.config.adapter, teacher_file(self.config)
        if adapter.used and taught is None:
            network = twin(self.network)
        else:
            network = self.make()
            additions = self.additions(network)
            if taught is not None:
                start = start_from(network, taught, self.published, additions, TEACHER)
            else:
                path = self.config.objective.init_from or self.default_start()
                start = start_from(network, path, self.weights_of, additions)
            if adapter.used:
                adapt(network, self.config, start)
        network.checkpointing = self.network.checkpointing
        for own, weight in network.named_parameters():
            weight.requires_grad_(name == SCORE and (is_adapter(own) or not adapter.used))
        return network

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All weights but those of a teacher that never changes."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        if self.objective.keeps_teacher:
            return state
        return {name: v for name, v in state.items() if not name.startswith("further.teacher.")}

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
        own = keyed_generator(self.config.seed, self.step_of(batch), "branch")
        return self.objective.target_kind(own, self.progress)

    def step_of(self, batch: Batch) -> int:
        """The number of the update that a batch is part of."""
        return int(batch["step"]) // self.config.trainer.accumulate_grad_batches

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        first = batch["step"] % self.config.trainer.accumulate_grad_batches == 0
        if first and self.objective.begin(self.step_of(batch), self.progress):
            self.renew_teacher()

    @torch.no_grad()
    def renew_teacher(self) -> None:
        """Give the teacher the student's weights."""
        teacher = self.further["teacher"]
        for own, new in zip(teacher.parameters(), self.network.parameters(), strict=True):
            own.copy_(new)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, closure)
        mean = torch.stack(self._errors).mean()
        self._errors.clear()
        self.objective.learn(self.kind, float(self.trainer.strategy.reduce(mean)))

    def update_ema(self) -> None:
        """Update the moving average in the steps that train the student."""
        if self.kind != SCORE:
            super().update_ema()

    def anchor_of(self, batch: Batch, kept_B: Tensor, own: torch.Generator) -> Tensor | None:
        """The anchor latent as the networks get it; None for the anchor network itself."""
        return None

    @abstractmethod
    def make(self) -> WanDiT:
        """The network with random weights."""

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
        return Passes(network, conditions, **self.further)

    def loss(self, network: Any, batch: Batch) -> Tensor:
        batch = self.encoded(batch)
        own = keyed_generator(self.config.seed, batch["step"], self.global_rank, "samples")
        kind, passes = self.target_kind(batch), self.passes(network, batch, own)
        target = self.objective.target(kind, passes, batch["latent"].float(), own)
        found = target.found
        if found is None:
            found = passes(target.x_t, target.timestep_B, target.step_size_B)
        error_BCTHW = (found.float() - target.velocity).square() * self.channels_C111
        error_B = passes.conditions.mean(error_BCTHW)
        if torch.is_grad_enabled():
            self.kind = kind
            self.remember(target, error_B.detach())
        weight_B = target.weight_B
        if target.rescale is not None:
            weight_B = weight_B * target.rescale(error_B.detach())
        return (weight_B * error_B).mean()

    def remember(self, target: Target, error_B: Tensor) -> None:
        """Keep the errors of a training step for the log and the objective.

        Raises ValueError where an objective asks for a step that ends beyond the data.
        """
        self._errors.append(error_B.mean())
        if self.global_rank:
            return
        rows = torch.stack((target.timestep_B, target.step_size_B, error_B), dim=1)
        for time, size, error in rows.tolist():
            if size > time + SLACK:
                raise ValueError(
                    f"objective={title(self.config.objective.part)} asks for a step of size"
                    f" {size:g} at timestep {time:g}, which would end below 0; the largest there is"
                    f" {time:g}"
                )
            self.seen.append((self.kind, time, size, error))

    def check_batch(self, batch: Batch) -> None:
        """Refuse a batch without what this network needs, or of impossible sizes; ValueError."""
        source = f"data={title(self.config.data.target or self.config.data.kind)}"
        needed = ["latent", "text", "empty"] if "latent" in batch else ["video", "caption"]
        if self.config.part == "detail":
            needed.append("condition" if "latent" in batch else "small")
        if missing := [name for name in needed if name not in batch]:
            raise ValueError(
                f"{source}: its examples have no {' and no '.join(missing)}; the"
                f" {self.config.part} network needs {', '.join(needed)}"
            )
        for name in {"video", "small"}.intersection(needed):
            for clip in batch[name]:
                frames, height, width = clip.shape[-3:]
                try:
                    Geometry(width, height, frames)
                except ValueError as error:
                    raise ValueError(
                        f"{source}: the {name} of an example is impossible: {error}"
                    ) from None

    @torch.no_grad()
    def encoded(self, batch: Batch) -> Batch:
        """The batch with latents and embeddings, made of pixels and captions where it has these."""
        self.check_batch(batch)
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
