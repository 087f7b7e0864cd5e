"""The state of a training in files: whole or not at all, rotated, continued by its own alone.

Besides what Lightning keeps (weights, average, optimizer, step) a state has the random numbers'
state, the position in the data, the seconds so far and all that it was made with.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from pixelwizard.config.schema import differences, to_plain
from pixelwizard.config.train import TrainConfig
from pixelwizard.models.wan.files import save_pickle
from pixelwizard.parallel.mesh import Rank
from pixelwizard.records.run_folder import determining
from pixelwizard.training.modules import TrainingModule
from pixelwizard.training.sharded import completed

OURS = "pixelwizard"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOWN = 3


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step."""
    return max(folder.glob("step-*.ckpt"), default=None)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a training: tensors and plain values, nothing in the file is executed."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state


def refuse_other(path: Path, config: TrainConfig, module: TrainingModule, identity: str) -> None:
    """Raise ValueError unless a state is of this network, this data and these settings."""
    state = read_checkpoint(path)
    ours, weights = state[OURS], state["state_dict"]
    own = module.state_dict()
    names = [n for n in {**weights, **own} if _shape(weights, n) != _shape(own, n)]
    problems = [f"its weight {n} is {_shape(weights, n)}, now {_shape(own, n)}" for n in names]
    if ours["data"] != identity:
        problems.append(f"its data were {ours['data']}, now {identity}")
    now = determining(config)
    for key in differences(ours["config"], now):
        problems.append(f"{key} was {_value(ours['config'], key)}, now {_value(now, key)}")
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"{path} is of another training: {'; '.join(problems[:SHOWN])}{more}; choose another"
            " run_dir, or go on with the network and data that it had"
        )


def _shape(weights: dict[str, Any], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "absent"


def _value(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints are written whole or not at all, and read without running code from them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        try:
            save_pickle(checkpoint, Path(path))
        except OSError as error:
            raise ValueError(
                f"{path} cannot be written ({error.strerror or error}); the checkpoint before it"
                " stays: make room, and the same command continues from there"
            ) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)


class Checkpoints(L.Callback):
    """Every so many steps and at the end: the state of the training, and an export of its weights.

    A signal waits for the end of the step, has the state written and then takes its former course;
    a second one takes it at once. Outside of the steps signals are left alone.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        identity: str,
        export: Callable[[Any, Any], None],
        rank: Rank,
    ) -> None:
        self.config, self.folder, self.identity, self.export = config, folder, identity, export
        self.rank = rank
        self._handlers: dict[int, Any] = {}
        self._received: int | None = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[OURS] = {
            "config": to_plain(determining(self.config)),
            "data": self.identity,
            "next_batch": trainer.global_step * self.config.trainer.accumulate,
            "seconds": dict(pl_module.watch.seconds),
            "random": torch.get_rng_state(),
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        pl_module.watch.seconds.update(checkpoint[OURS]["seconds"])
        torch.set_rng_state(checkpoint[OURS]["random"])

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        for unfinished in self.folder.glob("step-*.part"):
            unfinished.unlink(missing_ok=True)
        self._defer_signals()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *rest: Any
    ) -> None:
        if not pl_module.completes_step(batch):
            return
        received = max(self.rank.everyone.gather(self._received or 0))  # all stop at one step
        if received or trainer.global_step % self.config.checkpoint.every == 0:
            self.save(trainer, pl_module)
        if received:
            self._restore_signals()
            signal.raise_signal(received)

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._restore_signals()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._defer_signals()

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self._path(trainer.global_step).exists():
            self.save(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self._restore_signals()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore_signals()

    def save(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Write one checkpoint and the export, drop the oldest checkpoints; all ranks take part."""
        before = module.watch.enter("checkpoints")
        trainer.save_checkpoint(self._path(trainer.global_step), weights_only=False)
        average, last = completed(module.average), module.network
        if self.config.checkpoint.container:
            last = completed(last)
        if self.rank.is_first:
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.config.checkpoint.keep]:
                old.unlink()
            self.export(average, last)
        module.watch.enter(before)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.ckpt"

    def _defer_signals(self) -> None:
        if threading.current_thread() is threading.main_thread() and not self._handlers:
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _restore_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore_signals()
