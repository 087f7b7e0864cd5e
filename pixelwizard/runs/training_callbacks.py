"""What goes on beside a training: checkpoints and exports, signals, figures, the progress line."""

from __future__ import annotations

import csv
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from pixelwizard.runs.modules import TrainingModule
from pixelwizard.runs.progress import Line, clock

COLUMNS = ("step", "minutes", "loss", "smoothed", "held_out", "grad_norm", "lr", "seconds")
SMOOTHING = 0.98
LOG_EVERY = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step."""
    return max(folder.glob("step-*.ckpt"), default=None)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a training: tensors and plain values, nothing in the file is executed."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints are written whole or not at all, and read without running code from them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        unfinished = Path(path).with_suffix(".tmp")
        torch.save(checkpoint, unfinished)
        os.replace(unfinished, path)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)


class Checkpoints(L.Callback):
    """Every so many steps and at the end: the state of the training, and an export of its average.

    A signal waits for the end of the step, has the state written and then takes its former course;
    a second one takes it at once. Outside of the steps signals are left alone.
    """

    def __init__(self, folder: Path, every: int, keep: int, export: Callable[[Any], None]) -> None:
        self.folder, self.every, self.keep, self.export = folder, every, keep, export
        self._handlers: dict[int, Any] = {}
        self._received: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._defer_signals()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        if self._received is not None or trainer.global_step % self.every == 0:
            self.save(trainer, pl_module)
        if self._received is not None:
            signal.raise_signal(self._received)

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
        """Write one checkpoint and the export, drop the oldest checkpoints."""
        trainer.save_checkpoint(self._path(trainer.global_step))
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()
        self.export(module.average.module)

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


class TrainingLog(L.Callback):
    """Figures every ten steps in a CSV file and on a terminal's line; held-out losses as lines.

    A continued training drops the rows after its checkpoint and goes on below the others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = Line()
        self.smoothed: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        rows: list[dict[str, str]] = []
        if self.path.exists():
            with open(self.path, newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) <= trainer.global_step]
        known = [row["smoothed"] for row in rows if row["smoothed"]]
        self.smoothed = float(known[-1]) if known else None
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        kind = pl_module.config.part
        self.line.say(f"training: {kind}, from step {trainer.global_step}")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        loss, step = pl_module.figures["loss"], trainer.global_step
        before = loss if self.smoothed is None else self.smoothed
        self.smoothed = before * SMOOTHING + loss * (1 - SMOOTHING)
        if step % LOG_EVERY == 0:
            figures = {name: pl_module.figures[name] for name in ("grad_norm", "lr", "seconds")}
            self._write(step, pl_module, loss=loss, smoothed=self.smoothed, **figures)
        self.line.show(f"{self._position(step, pl_module)}  ETA {clock(pl_module.seconds_left)}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        step, held_out = trainer.global_step, pl_module.figures["held_out"]
        self._write(step, pl_module, held_out=held_out)
        self.line.say(f"{self._position(step, pl_module)}  held out {held_out:.4f}")

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self.line.show("")

    def _position(self, step: int, module: TrainingModule) -> str:
        pace = 1 / max(module.figures["seconds"], 1e-9)
        return (
            f"step {step} ({100 * module.progress:.0f} %)  loss {self.smoothed:.4f}"
            f"  {pace:.2f} steps/s"
        )

    def _write(self, step: int, module: TrainingModule, **figures: float) -> None:
        row = {name: f"{value:.6g}" for name, value in figures.items()}
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writerow({"step": step, "minutes": f"{module.elapsed / 60:.6g}", **row})
