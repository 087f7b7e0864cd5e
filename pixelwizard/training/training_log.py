"""The figures of a training: CSV files, Lightning's loggers, the terminal, the use of time.

``log.csv`` has a row every ``trainer.log_every_n_steps`` steps and one for every held-out loss.
``buckets.csv`` has, with every checkpoint, the mean error of each kind of target by timestep and
step size. A continued training drops the rows after its checkpoint and appends to the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from pixelwizard.io.process import PeakMemory
from pixelwizard.io.terminal import Line, clock
from pixelwizard.tracking.loggers import CSVRows, StepTable
from pixelwizard.training.networks.base import TrainedNetwork

COLUMNS = (
    *("step", "minutes", "loss", "smoothed", "flow", "consistency", "held_out", "grad_norm", "lr"),
    *("step_seconds", "data_seconds", "tokens_per_second", "peak_gb"),
)
BUCKET_COLUMNS = ("step", "branch", "timestep", "step_size", "samples", "error")
SMOOTHING = 0.98
TIMES = (200, 400, 600, 800, 1000)
SIZES = (0, 32, 64, 128, 256, 512, 1000)
"""Upper ends of the buckets, included."""


class RunLog(CSVRows):
    """Lightning's figures as rows of ``log.csv``; what is not a number stays empty."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.table = StepTable(folder / "log.csv", COLUMNS)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """``config.yaml`` has them."""

    def values(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        return {name: f"{v:.6g}" for name, v in metrics.items() if not math.isnan(v)}


class Means(dict[str, list[float]]):
    """Means of values by key, as sums and counts: plain values for the state of a training."""

    def put(self, key: str, value: float) -> None:
        """Add a value."""
        total, count = self.get(key, (0.0, 0))
        self[key] = [total + value, count + 1]

    def mean(self, key: str) -> float:
        """The mean, not a number where there is no value."""
        total, count = self.get(key, (0.0, 0))
        return total / count if count else math.nan


class TrainingLog(L.Callback):
    """Makes and shows the figures, tells the network's watch what begins; the first callback."""

    def __init__(self, rows: RunLog) -> None:
        self.rows, self.line = rows, Line()
        self.buckets = StepTable(rows.folder / "buckets.csv", BUCKET_COLUMNS)
        self.smoothed: float | None = None
        self.recent, self.errors = Means(), Means()

    def state_dict(self) -> dict[str, Any]:
        recent, errors = dict(self.recent), dict(self.errors)
        return {"smoothed": self.smoothed, "recent": recent, "errors": errors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.smoothed = state["smoothed"]
        self.recent, self.errors = Means(state["recent"]), Means(state["errors"])

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.rows.go_on(trainer.global_step)
        self.buckets.keep(trainer.global_step)
        self.memory, self.before = PeakMemory(), dict(pl_module.watch.seconds)
        self.line.say(f"training: {pl_module.config.part}, from step {trainer.global_step}")
        pl_module.watch.enter("logging")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *rest: Any) -> None:
        pl_module.watch.enter("step")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *rest: Any
    ) -> None:
        pl_module.watch.enter("logging")
        if not pl_module.completes_step(batch):
            return
        loss, step = pl_module.figures["loss"], trainer.global_step
        before = loss if self.smoothed is None else self.smoothed
        self.smoothed = before * SMOOTHING + loss * (1 - SMOOTHING)
        self.remember(pl_module.errors())
        if step % pl_module.config.trainer.log_every_n_steps == 0:
            pl_module.log_dict(self._figures(pl_module))
        if step % pl_module.config.checkpoint.every == 0:
            self._log_buckets(trainer)
        done, spent = pl_module.progress, pl_module.watch.total
        left = spent / max(done, 1e-9) * (1 - min(done, 1.0))  # at the average pace so far
        self.line.show(f"{self._position(step, pl_module)}  ETA {clock(left)}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.watch.enter("held-out loss")

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.watch.enter("logging")
        held_out = pl_module.figures["held_out"]
        self.line.say(f"{self._position(trainer.global_step, pl_module)}  held out {held_out:.4f}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.line.say(f"{pl_module.watch.total:.0f} s: {pl_module.watch.split()}")
        pl_module.watch.enter(None)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if hasattr(self, "memory"):
            self.memory.stop()
        self.line.show("")

    def remember(self, errors: Iterable[tuple[str, float, float, float]]) -> None:
        """Add the errors (kind, timestep, step size, error) of samples."""
        for kind, timestep, size, error in errors:
            self.recent.put(kind, error)
            self.errors.put(f"{kind} {_bucket(timestep, TIMES)} {_bucket(size, SIZES)}", error)

    def _figures(self, module: TrainedNetwork) -> dict[str, float]:
        """Those of the steps since they were logged last."""
        seconds = {name: module.watch.seconds[name] for name in ("step", "data", "logging")}
        passed = {name: spent - self.before.get(name, 0.0) for name, spent in seconds.items()}
        self.before, steps = seconds, module.config.trainer.log_every_n_steps
        figures = {"smoothed": self.smoothed or 0.0, "peak_gb": self.memory.gb()}
        figures |= {kind: self.recent.mean(kind) for kind in module.kinds}
        figures |= {f"{name}_seconds": passed[name] / steps for name in ("step", "data")}
        if module.tokens:
            tokens = module.tokens * module.config.trainer.accumulate_grad_batches * steps
            figures["tokens_per_second"] = tokens / max(sum(passed.values()), 1e-9)
        self.recent.clear()
        return {"minutes": module.minutes, **figures}

    def _log_buckets(self, trainer: L.Trainer) -> None:
        rows = bucketed(self.errors)
        self.errors.clear()
        self.buckets.add({"step": trainer.global_step, **row} for row in rows)
        named = {
            f"error/{row['branch']}/t{row['timestep']}/dt{row['step_size']}": row["error"]
            for row in rows
        }
        for logger in trainer.loggers:
            if named and logger is not self.rows:
                logger.log_metrics(named, trainer.global_step)

    def _position(self, step: int, module: TrainedNetwork) -> str:
        pace = step / max(module.watch.total, 1e-9)
        return (
            f"step {step} ({100 * module.progress:.0f} %)  loss {self.smoothed or 0.0:.4f}"
            f"  {pace:.2f} steps/s"
        )


def bucketed(errors: Means) -> list[dict[str, Any]]:
    """The mean error by kind of target, timestep and step size: one row per bucket with samples."""
    rows = []
    for key in errors:
        kind, timestep, size = key.rsplit(" ", 2)
        facts = {"branch": kind, "timestep": int(timestep), "step_size": int(size)}
        rows.append({**facts, "samples": int(errors[key][1]), "error": errors.mean(key)})
    return sorted(rows, key=lambda row: (row["branch"], row["timestep"], row["step_size"]))


def _bucket(value: float, ends: tuple[int, ...]) -> int:
    return next((end for end in ends if value <= end), ends[-1])
