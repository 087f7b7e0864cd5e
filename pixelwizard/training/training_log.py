"""The figures of a training: CSV files, the tracker, a terminal's line; what the time went into.

``log.csv`` has a row every ``trainer.log_every`` steps and one for every held-out loss.
``buckets.csv`` has, with every checkpoint, the mean error of each kind of target by timestep and
step size. A continued training drops the rows after its checkpoint and goes on below the others.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L

from pixelwizard.io.memory import PeakMemory
from pixelwizard.io.progress import Line, clock, mean
from pixelwizard.tracking.base import Tracker
from pixelwizard.training.modules import TrainingModule
from pixelwizard.training.objectives.flow import FLOW
from pixelwizard.training.objectives.shortcut import CONSISTENCY
from pixelwizard.training.velocity import Seen, VelocityModule

COLUMNS = (
    *("step", "minutes", "loss", "smoothed", FLOW, CONSISTENCY, "held_out", "grad_norm", "lr"),
    *("step_seconds", "data_seconds", "tokens_per_second", "peak_gb"),
)
BUCKET_COLUMNS = ("step", "branch", "timestep", "step_size", "samples", "error")
SMOOTHING = 0.98
TIMES = (200, 400, 600, 800, 1000)
SIZES = (0, 32, 64, 128, 256, 512, 1000)
"""Upper ends of the buckets, included."""


class Timing(L.Callback):
    """Tells the module's watch what begins; the first of the callbacks."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.watch.enter("data")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        pl_module.watch.enter("step")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        pl_module.watch.enter("logging")

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.watch.enter("held-out loss")


class Waiting(L.Callback):
    """Tells the watch that the next batch is waited for; the last of the callbacks."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        pl_module.watch.enter("data")

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.watch.enter("data")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.watch.enter(None)


class TrainingLog(L.Callback):
    """Writes and shows the figures, and at the end the split of the time."""

    def __init__(self, folder: Path, tracker: Tracker) -> None:
        self.rows = Table(folder / "log.csv", COLUMNS)
        self.buckets = Table(folder / "buckets.csv", BUCKET_COLUMNS)
        self.tracker, self.line = tracker, Line()
        self.smoothed: float | None = None
        self.recent: dict[str, list[float]] = defaultdict(list)
        self.unbucketed: list[Seen] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        known = [row["smoothed"] for row in self.rows.keep(trainer.global_step)]
        self.buckets.keep(trainer.global_step)
        shown = [value for value in known if value]
        self.smoothed = float(shown[-1]) if shown else None
        self.memory, self.before = PeakMemory(), dict(pl_module.watch.seconds)
        self.line.say(f"training: {pl_module.config.part}, from step {trainer.global_step}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *rest: Any
    ) -> None:
        if not pl_module.completes_step(batch):
            return
        loss, step = pl_module.figures["loss"], trainer.global_step
        before = loss if self.smoothed is None else self.smoothed
        self.smoothed = before * SMOOTHING + loss * (1 - SMOOTHING)
        if isinstance(pl_module, VelocityModule):
            for seen in pl_module.seen:
                self.recent[seen.branch] += seen.error_B.tolist()
            self.unbucketed += pl_module.seen
            pl_module.seen.clear()
        if step % pl_module.config.trainer.log_every == 0:
            self._log_step(step, pl_module)
        if step % pl_module.config.checkpoint.every == 0:
            self._log_buckets(step)
        self.line.show(f"{self._position(step, pl_module)}  ETA {clock(pl_module.seconds_left)}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        step, held_out = trainer.global_step, pl_module.figures["held_out"]
        self._write(step, pl_module, {"held_out": held_out})
        self.line.say(f"{self._position(step, pl_module)}  held out {held_out:.4f}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.watch.enter("logging")
        self.line.say(f"{pl_module.watch.total:.0f} s: {pl_module.watch.split()}")

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if hasattr(self, "memory"):
            self.memory.stop()
        self.line.show("")

    def _log_step(self, step: int, module: TrainingModule) -> None:
        seconds = {name: module.watch.seconds[name] for name in ("step", "data", "logging")}
        passed = {name: spent - self.before.get(name, 0.0) for name, spent in seconds.items()}
        self.before = seconds
        steps = module.config.trainer.log_every
        figures = {name: module.figures[name] for name in ("loss", "grad_norm", "lr")}
        figures |= {"smoothed": self.smoothed or 0.0, "peak_gb": self.memory.gb()}
        figures |= {branch: mean(errors) for branch, errors in self.recent.items()}
        figures |= {f"{name}_seconds": passed[name] / steps for name in ("step", "data")}
        if module.tokens:
            tokens = module.tokens * module.config.trainer.accumulate * steps
            figures["tokens_per_second"] = tokens / max(sum(passed.values()), 1e-9)
        self.recent.clear()
        self._write(step, module, figures)

    def _log_buckets(self, step: int) -> None:
        rows = bucketed(self.unbucketed)
        self.unbucketed.clear()
        self.buckets.add([{"step": step, **row} for row in rows])
        named = {
            f"error/{row['branch']}/t{row['timestep']}/dt{row['step_size']}": row["error"]
            for row in rows
        }
        if named:
            self.tracker.training(named, step)

    def _position(self, step: int, module: TrainingModule) -> str:
        pace = step / max(module.watch.total, 1e-9)
        return (
            f"step {step} ({100 * module.progress:.0f} %)  loss {self.smoothed or 0.0:.4f}"
            f"  {pace:.2f} steps/s"
        )

    def _write(self, step: int, module: TrainingModule, figures: dict[str, float]) -> None:
        shown = {name: f"{value:.6g}" for name, value in figures.items()}
        self.rows.add([{"step": step, "minutes": f"{module.minutes:.6g}", **shown}])
        self.tracker.training(figures, step)


class Table:
    """A CSV file whose rows begin with a step."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns

    def keep(self, step: int) -> list[dict[str, str]]:
        """Drop the rows after ``step``; the others."""
        rows: list[dict[str, str]] = []
        if self.path.exists():
            with open(self.path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        with open(self.path, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        return rows

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows."""
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.columns).writerows(rows)


def bucketed(seen: Iterable[Seen]) -> list[dict[str, Any]]:
    """The mean error by kind of target, timestep and step size: one row per bucket with samples."""
    errors: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for step in seen:
        rows = zip(
            step.timestep_B.tolist(), step.step_size_B.tolist(), step.error_B.tolist(), strict=True
        )
        for timestep, size, error in rows:
            errors[step.branch, _bucket(timestep, TIMES), _bucket(size, SIZES)].append(error)
    return [
        {
            **{"branch": branch, "timestep": timestep, "step_size": size},
            **{"samples": len(values), "error": mean(values)},
        }
        for (branch, timestep, size), values in sorted(errors.items())
    ]


def _bucket(value: float, ends: tuple[int, ...]) -> int:
    return next((end for end in ends if value <= end), ends[-1])
