"""The trackers of a run together: one that fails is replaced or dropped, the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import TrackerSettings
from pixelwizard.config.targets import door_of
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.terminal import reason
from pixelwizard.tracking import Tracker, Warn
from pixelwizard.tracking.loggers import CSVRows, LoggerRun

log = logging.getLogger(__name__)
RECORDING = ("log_hyperparams", "log_metrics", "save", "finalize", "after_save_checkpoint")
"""What a trainer tells a logger."""


def makers(config: GenerateConfig | TrainConfig, warn: Warn) -> dict[str, Callable[[], Tracker]]:
    """The constructor of each tracker of a run, by its setting."""
    found: dict[str, Callable[[], Tracker]] = {}
    if config.tracker.kind == "wandb":
        found["tracker=wandb"] = lambda: _wandb_run(config, warn)
    if config.tracker.kind == "csv":
        found["tracker=csv"] = lambda: LoggerRun(config, CSVRows(Path(config.run_dir, "csv")))
    if (own := config.tracker.logger) is not None:  # a class that takes save_dir gets the folder
        make = partial(door_of(TrackerSettings, "logger").make, own, "tracker.logger")
        found["tracker.logger"] = lambda: LoggerRun(config, make(save_dir=config.run_dir))
    return found


def _wandb_run(config: GenerateConfig | TrainConfig, warn: Warn) -> Tracker:
    from pixelwizard.tracking.wandb_run import WandbRun  # with wandb, whose import may fail

    return WandbRun(config, warn)


class FallbackTracker(Tracker):
    """The trackers of ``config.tracker``, opened at first use; their errors never end the run.

    The first error is passed to ``warn`` as one sentence, its traceback to the log. W&B then
    continues offline, other trackers record nothing more; the run folder still has everything.
    """

    def __init__(self, config: GenerateConfig | TrainConfig, warn: Warn = print) -> None:
        self.config, self.warn = config, warn
        self._opened: dict[str, Tracker] | None = None

    @property
    def loggers(self) -> Sequence[Logger]:  # type: ignore[override]
        """Loggers for a trainer; their errors end neither the trainer nor the run."""
        return [logger for tracker in self._open().values() for logger in tracker.loggers]

    def stage(self, id: str, name: str, cost: dict[str, float]) -> None:
        self._tell("stage", id, name, cost)

    def video(self, path: Path, record: dict[str, Any]) -> None:
        self._tell("video", path, record)

    def earlier(self, path: Path, record: dict[str, Any]) -> None:
        self._tell("earlier", path, record)

    def scores(self, scores: dict[str, Any]) -> None:
        self._tell("scores", scores)

    def sample(self, path: Path, caption: str, step: int) -> None:
        self._tell("sample", path, caption, step)

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        if self._opened is not None:  # a run in which nothing happened leaves no record
            self._tell("finish", sheet, done)

    def _open(self) -> dict[str, Tracker]:
        if self._opened is None:
            self._opened = {}
            for name, make in makers(self.config, self.warn).items():
                try:
                    self._opened[name] = make()
                except Exception as error:
                    self._give_up(name, error)
                else:
                    self._guard(name)
        return self._opened

    def _guard(self, name: str) -> None:
        """What a trainer tells the loggers of a tracker goes the same careful way."""
        for logger in self._open()[name].loggers:
            for action in RECORDING:
                careful = partial(self._attempt, name, getattr(logger, action))
                setattr(logger, action, careful)

    def _tell(self, action: str, *arguments: Any) -> None:
        for name, tracker in list(self._open().items()):
            self._attempt(name, getattr(tracker, action), *arguments)

    def _attempt(self, name: str, act: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Once more where the tracker recovers."""
        for _ in range(2):
            if name not in self._open():
                return
            try:
                act(*arguments, **named)
                return
            except Exception as error:
                log.exception("%s failed", name)
                if not self._recovers(name):
                    self._give_up(name, error)

    def _recovers(self, name: str) -> bool:
        try:
            return self._open()[name].recover()
        except Exception:
            log.exception("nor can %s go on", name)
            return False

    def _give_up(self, name: str, error: Exception) -> None:
        log.warning("%s is given up", name, exc_info=error)
        self._open().pop(name, None)
        self.warn(f"{name} failed ({reason(error)}); the run continues without it")
