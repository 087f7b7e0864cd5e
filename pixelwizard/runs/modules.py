"""The base of what is trained: a network, its average, its optimizer; randomness from (seed, step).

A batch is a dictionary with the number of its step, so that a continued training sees what an
uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pixelwizard.runs.optimizers import MuonAdamW, make_optimizer, rate
from pixelwizard.train_settings import TrainConfig

Batch = dict[str, Any]


def generator(*key: object) -> torch.Generator:
    """Random numbers of their own for every key, like (seed, step, "noise")."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def per_sample(values_B: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1]."""
    return values_B.view(-1, 1, 1, 1, 1)


class TrainingModule(L.LightningModule, ABC):
    """A network, its moving average and its optimizer; subclasses say what the loss is.

    ``elapsed`` counts the seconds of all steps, also of the trainings that this one continues.
    """

    def __init__(self, config: TrainConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network
        decay = config.optimizer.ema

        def average(kept: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
            share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
            torch._foreach_lerp_(kept, new, share)

        self.average = AveragedModel(network, multi_avg_fn=average).requires_grad_(False)
        self.elapsed = 0.0
        self.figures: dict[str, float] = {}
        self._started = 0.0

    @abstractmethod
    def loss(self, network: Any, batch: Batch) -> Tensor:
        """The loss of a batch; draws only from the generator of the batch's step."""

    def is_matrix(self, name: str, parameter: Tensor) -> bool:
        """Whether Muon takes a parameter: the linears inside the blocks."""
        return name.startswith("blocks.") and parameter.ndim == 2

    @property
    def progress(self) -> float:
        """The share of the training that is done, by steps or by time, whichever is further."""
        settings = self.config.trainer
        by_steps = self.global_step / settings.max_steps
        by_time = self.elapsed / 60 / settings.max_minutes if settings.max_minutes else 0.0
        return max(by_steps, by_time)

    @property
    def seconds_left(self) -> float:
        """How long the rest will take at the pace so far."""
        return self.elapsed / max(self.progress, 1e-9) * (1 - min(self.progress, 1.0))

    def configure_optimizers(self) -> MuonAdamW:
        return make_optimizer(self.network, self.config.optimizer, self.is_matrix)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._started = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(self.network, batch)
        self.figures["loss"] = float(loss.detach())
        return loss

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the gradient to the configured norm and remember the norm it had."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip)
        self.figures["grad_norm"] = float(norm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        """Set the rates, step, and let the average follow."""
        factor = rate(self.progress, self.global_step, self.config.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.figures["lr"] = optimizer.param_groups[-1]["lr"]
        optimizer.step(closure=closure)
        self.average.update_parameters(self.network)
        seconds = time.monotonic() - self._started
        self.figures["seconds"] = seconds
        self.elapsed += seconds

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.progress >= 1:
            self.trainer.should_stop = True

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The averaged network's loss on held-out examples, the same noise every time."""
        loss = float(self.loss(self.average.module, batch))
        self.figures["held_out"] = (self.figures.get("held_out", 0.0) * batch_idx + loss) / (
            batch_idx + 1
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["elapsed"] = self.elapsed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.elapsed = checkpoint["elapsed"]
