"""The record of a run beside its folder: W&B, or a logger of Lightning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixelwizard.config.generate import Config
from pixelwizard.config.train import TrainConfig
from pixelwizard.tracking.base import Tracker

log = logging.getLogger(__name__)


def open_tracker(config: Config | TrainConfig, warn: Callable[[str], None] = print) -> Tracker:
    """The tracker of a run, by ``config.tracker.kind``; nothing that it does can end the run.

    The first error is told to ``warn`` in a sentence, and its trace goes to the log. W&B then goes
    on offline, of others nothing more is recorded; the run folder has everything all the same.
    """
    return Careful(config, warn)


def make_tracker(config: Config | TrainConfig, warn: Callable[[str], None]) -> Tracker:
    """The tracker itself; raises whatever its library raises."""
    if config.tracker.kind == "none":
        return Tracker()
    if config.tracker.kind == "wandb":
        from pixelwizard.tracking.wandb_run import WandbRun

        return WandbRun(config, warn)
    from pixelwizard.tracking.loggers import LoggerRun

    return LoggerRun(config)


class Careful(Tracker):
    """A tracker that is opened at its first use, and replaced or given up when it fails."""

    def __init__(self, config: Config | TrainConfig, warn: Callable[[str], None]) -> None:
        self.config, self.warn = config, warn
        self._tracker: Tracker | None = None

    def stage(self, id: str, name: str, cost: dict[str, float]) -> None:
        self._do("stage", id, name, cost)

    def video(self, path: Path, record: dict[str, Any]) -> None:
        self._do("video", path, record)

    def earlier(self, path: Path, record: dict[str, Any]) -> None:
        self._do("earlier", path, record)

    def scores(self, scores: dict[str, Any]) -> None:
        self._do("scores", scores)

    def training(self, values: dict[str, float], step: int) -> None:
        self._do("training", values, step)

    def sample(self, path: Path, caption: str, step: int) -> None:
        self._do("sample", path, caption, step)

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        if self._tracker is not None:  # a run in which nothing happened leaves no record
            self._do("finish", sheet, done)

    def _do(self, action: str, *arguments: Any) -> None:
        """Once more with what takes the place of a tracker that failed."""
        for _ in range(2):
            try:
                if self._tracker is None:
                    self._tracker = make_tracker(self.config, self.warn)
                return getattr(self._tracker, action)(*arguments)
            except Exception as error:
                log.exception("the tracker %s failed", self.config.tracker.kind)
                self._tracker = self._instead(error)

    def _instead(self, error: Exception) -> Tracker:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        try:
            other = self._tracker.substitute() if self._tracker else None
        except Exception:
            log.exception("nor can the tracker %s go on", self.config.tracker.kind)
            other = None
        if other is None:
            self.warn(
                f"tracker={self.config.tracker.kind} failed ({reason}); the run goes on without it"
            )
        return other or Tracker()
