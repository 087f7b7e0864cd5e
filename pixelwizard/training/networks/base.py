"""A network in training: its start, its data, its loss, its export.

A network is one file of this package, named as ``objective`` or ``stage`` names it. Randomness is
drawn from (seed, step). A batch is a dictionary with the number of its step, so a continued
training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch
from pixelwizard.models.lora.adapter import is_adapter
from pixelwizard.models.wan.files import Weight, read_tensors, unwrap
from pixelwizard.models.weights import shard
from pixelwizard.records.run_folder import WorkStopped
from pixelwizard.training.data import Examples
from pixelwizard.training.optimizers import make_optimizer, rate
from pixelwizard.training.sharded import gather_full
from pixelwizard.training.starts import Start, adapt, start_from, twin
from pixelwizard.training.stopwatch import Stopwatch


class TrainedNetwork(L.LightningModule, ABC):
    """A network, its moving average and its optimizer.

    ``start`` says where the weights come from, ``watch`` what the time goes into; ``figures`` are
    those of the latest step, ``minutes`` the time of all steps, also of the trainings that this one
    continues.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        network = self.make()
        path = config.objective.init_from or self.default_start()
        self.start: Start = start_from(network, path, self.weights_of, self.additions(network))
        if config.adapter.used:
            adapt(network, config, self.start)
        self.network = network
        self.average = twin(network).requires_grad_(False)
        self.averaged = nn.Buffer(torch.tensor(0))
        self.watch = Stopwatch()
        self.figures: dict[str, float] = {}
        self.minutes = 0.0
        self._losses: list[float] = []
        self._held_out: list[float] = []

    @abstractmethod
    def make(self) -> nn.Module:
        """The network with random weights."""

    @abstractmethod
    def open_data(self) -> Examples:
        """Its training data. Raises ValueError if there is none."""

    @abstractmethod
    def loss(self, network: Any, batch: Batch) -> Tensor:
        """The loss of a batch; draws only from generators of the batch's number."""

    @abstractmethod
    def export(self, folder: Path, average: Any, last: Any) -> None:
        """Write the EMA network (and the ``last`` weights) in the layout of its readers."""

    def default_start(self) -> Path | None:
        """The file of the starting weights, unless ``objective.init_from`` names another."""
        return None

    def weights_of(self, path: Path) -> Mapping[str, Weight]:
        """The weights of a file under the network's names."""
        return unwrap(read_tensors(path), path)

    def additions(self, network: nn.Module) -> set[str]:
        """Names of the weights that a file of starting weights may lack."""
        return set()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of target whose errors are logged separately."""
        return ()

    def errors(self) -> list[tuple[str, float, float, float]]:
        """(kind, timestep, step size, error) of every sample since the last call."""
        return []

    def is_matrix(self, name: str, parameter: Tensor) -> bool:
        """Whether Muon takes a parameter: the linears inside the blocks."""
        inner = name.startswith("blocks.") and not is_adapter(name)
        return inner and parameter.ndim == 2

    @property
    def networks(self) -> list[Any]:
        """Every network in memory."""
        return [self.network, self.average]

    @property
    def trained(self) -> list[tuple[Any, float]]:
        """The networks that the optimizer updates, each with its factor on the learning rates."""
        return [(self.network, 1.0)]

    @property
    def tokens(self) -> int:
        """How many tokens (0: it has none) the network sees in a batch."""
        return 0

    @property
    def progress(self) -> float:
        """The share of the training that is done, by steps or by time, whichever is further."""
        settings = self.config.trainer
        by_steps = self.global_step / settings.max_steps
        by_time = self.minutes / settings.minutes if settings.minutes else 0.0
        return max(by_steps, by_time)

    def completes_step(self, batch: Batch) -> bool:
        """Whether a batch is the last one of an update."""
        return bool((batch["step"] + 1) % self.config.trainer.accumulate_grad_batches == 0)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint keeps: everything that is trained, and its average."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        if not self.config.adapter.used:
            return state
        parts = ("network.", "average.", "further.")
        return {n: v for n, v in state.items() if is_adapter(n) or not n.startswith(parts)}

    def configure_model(self) -> None:
        """Let the ranks of the mesh, if there is one, average gradients and shard weights."""
        axes = self.device_mesh  # the ranks of all batches, and an axis of size 1
        if axes is not None and not isinstance(self.network, FSDPModule):
            sliced = self.config.parallel.shard == "all"
            for network in self.networks:
                shard(network, axes[axes.mesh_dim_names[0]] if sliced else axes)  # type: ignore[index]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        mixed = self.config.trainer.precision == "bf16-mixed"
        dtype = torch.bfloat16 if mixed else torch.float32
        return make_optimizer(self.trained, self.config.optimizer, self.is_matrix, dtype)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Read the clock, the first rank's on all ranks, so their progress is the same."""
        self.minutes = self.watch.seconds["step"] / 60
        if self.trainer.world_size > 1 and self.config.trainer.minutes:
            self.minutes = self.trainer.strategy.broadcast(self.minutes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(self.network, batch)
        self._losses.append(float(loss.detach()))
        return loss

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the gradient to the configured norm and record its norm.

        Raises WorkStopped, before anything is updated, where it or the loss is not finite.
        """
        parameters = [p for network, _ in self.trained for p in network.parameters()]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip)
        self.figures["grad_norm"] = float(gather_full(norm))
        self.figures["loss"] = sum(self._losses) / len(self._losses)
        self._losses.clear()
        self.refuse_infinite(self.global_step + 1, "loss", "grad_norm")

    def refuse_infinite(self, step: int, *names: str) -> None:
        """Raise WorkStopped if one of these figures is not finite."""
        for name in names:
            if not math.isfinite(self.figures[name]):
                raise WorkStopped(
                    f"training stopped at step {step}: {name} is {self.figures[name]}; try a lower"
                    " optimizer.lr or optimizer.clip"
                )

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        """Set the learning rates, step, and update the moving average."""
        factor = rate(self.progress, self.global_step, self.config.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.figures["lr"] = optimizer.param_groups[-1]["lr"]
        optimizer.step(closure=closure)
        self.update_ema()

    @torch.no_grad()
    def update_ema(self) -> None:
        """Update the moving average with the new weights."""
        settings, count = self.config.optimizer, int(self.averaged)
        decay = min(settings.ema, (1 + count) / (10 + count)) if count else 0.0
        if settings.ema_start is not None:
            decay = settings.ema if count >= settings.ema_start else 0.0
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        kept, new = zip(*((mean, last) for mean, last in pairs if last.requires_grad), strict=True)
        torch._foreach_lerp_(kept, new, 1 - decay)
        self.averaged.add_(1)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.completes_step(batch):
            names = ("loss", "grad_norm", "lr")
            self.log_dict({"step": self.global_step, **{n: self.figures[n] for n in names}})
        if self.progress >= 1:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        self._held_out.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The EMA network's loss on held-out examples, with the same noise every time."""
        self._held_out.append(float(self.loss(self.average, batch)))

    def on_validation_epoch_end(self) -> None:
        self.figures["held_out"] = sum(self._held_out) / len(self._held_out)
        self.refuse_infinite(self.global_step, "held_out")
        self.log_dict({"step": self.global_step, "held_out": self.figures["held_out"]})
