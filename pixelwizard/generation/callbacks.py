"""Lightning callbacks of the predict loops: results into the store, failures into the status."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from pixelwizard.generation.loops import Done, Failed, StageLoop, sentence
from pixelwizard.io.memory import PeakMemory
from pixelwizard.io.progress import Display
from pixelwizard.records.jobs import Job
from pixelwizard.records.status import Status
from pixelwizard.records.store import Store
from pixelwizard.tracking.base import Tracker

log = logging.getLogger(__name__)


class Keep(Callback):
    """Stores what a job's stage returned with its cost, or records why it failed.

    ``publish`` is called with the cost of the decode once a job's video is written. The peak that
    was planned stands beside the measured one. Only the first ``kept`` jobs are: what follows, or
    everything where this is 0, is kept on another rank.
    """

    def __init__(
        self,
        store: Store,
        status: Status,
        publish: Callable[[Job, dict[str, float]], None],
        tracker: Tracker,
        planned_gb: float | None,
        kept: int,
    ) -> None:
        self.store, self.status, self.publish = store, status, publish
        self.tracker, self.planned_gb, self.kept = tracker, planned_gb, kept
        self.memory = PeakMemory()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Job,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, StageLoop)
        name = pl_module.name
        if batch_idx >= self.kept:
            return
        if isinstance(outputs, Failed):
            self._fail(name, batch, outputs.error)
            return
        assert isinstance(outputs, Done)
        cost = {
            "seconds": round(outputs.seconds, 3),
            "loading_seconds": round(pl_module.loading_seconds, 3),
            "peak_gb": round(self.memory.gb(), 3),
        }
        if self.planned_gb is not None:
            cost["planned_gb"] = self.planned_gb
            log.info("%s: peak %.3f GB, planned %.3f", name, cost["peak_gb"], self.planned_gb)
        for artifact in outputs.artifacts:
            self.store.save(artifact.kind, artifact.key, artifact.tensors, cost)
            self.store.remove(f"{artifact.kind}_state", artifact.key)
        self.tracker.stage(batch.id, name, cost)
        if name == "decode":
            self.publish(batch, cost)

    def _fail(self, name: str, job: Job, error: Exception) -> None:
        log.error("%s of %s failed", name, job.id, exc_info=error)
        self.status.fail(job.id, f"{name}: {sentence(error)}")


class Progress(Callback):
    """Tells the display which prompt is in work; ``numbers``: prompt id -> its place in the run."""

    def __init__(self, display: Display, numbers: Mapping[str, int]) -> None:
        self.display, self.numbers = display, numbers

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Job,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.display.begin(self.numbers[batch.id], batch.prompt.text)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Job,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.display.end()
