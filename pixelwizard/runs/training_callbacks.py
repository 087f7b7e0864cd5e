"""What goes on beside a training: checkpoints, exports, the table of figures, the progress line."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from pixelwizard.runs.modules import TrainingModule

COLUMNS = ("step", "minutes", "loss", "smoothed", "held_out", "grad_norm", "lr", "seconds")
SMOOTHING = 0.98


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step."""
    return max(folder.glob("step-*.ckpt"), default=None)


class Checkpoints(L.Callback):
    """Every so many steps and at the end: the state of the training, and an export of its average.

    A checkpoint is written beside its place and renamed, so a killed training always leaves whole
    ones.
    """

    def __init__(self, folder: Path, every: int, keep: int, export: Callable[[Any], None]) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.export = export

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self._path(trainer.global_step).exists():
            self.save(trainer, pl_module)

    def save(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Write one checkpoint and the export, drop the oldest checkpoints."""
        path = self._path(trainer.global_step)
        unfinished = path.with_suffix(".tmp")
        trainer.save_checkpoint(unfinished)
        os.replace(unfinished, path)
        for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()
        self.export(module.average.module)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.ckpt"


class TrainingLog(L.Callback):
    """A row of figures every ten steps in a CSV file, and a line on a terminal.

    A continued training drops the rows after its checkpoint and goes on below the others.
    """

    def __init__(self, path: Path, every: int = 10) -> None:
        self.path = path
        self.every = every
        self.smoothed: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        rows: list[dict[str, str]] = []
        if self.path.exists():
            with open(self.path, newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) <= trainer.global_step]
        self.smoothed = float(rows[-1]["smoothed"]) if rows else None
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        loss, step = pl_module.figures["loss"], trainer.global_step
        before = loss if self.smoothed is None else self.smoothed
        self.smoothed = before * SMOOTHING + loss * (1 - SMOOTHING)
        if step % self.every == 0:
            self._write(step, pl_module)

    def _write(self, step: int, module: TrainingModule) -> None:
        figures = {**module.figures, "smoothed": self.smoothed, "minutes": module.elapsed / 60}
        module.figures.pop("held_out", None)
        row = {name: f"{figures[name]:.6g}" for name in COLUMNS if name in figures}
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({**row, "step": str(step)})
        if sys.stderr.isatty():
            left = module.elapsed / 60 / max(module.progress, 1e-9) * (1 - module.progress)
            print(
                f"\rstep {step}  loss {self.smoothed:.4f}  {figures['seconds']:.2f} s/step"
                f"  {100 * module.progress:.0f} %  about {left:.0f} min left ",
                end="",
                file=sys.stderr,
                flush=True,
            )
