"""Runs in loggers of Lightning: its CSV files, or any other by the name of its class."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from pixelwizard.config.generate import Config
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.train import TrainConfig
from pixelwizard.tracking.base import Tracker, figures, score_figures, score_recipes


class LoggerRun(Tracker):
    """The settings and the recipes of scores as hyperparameters, rows of figures for every video
    and, one step later, for all of them.

    Loggers begin anew when a run is continued, so earlier videos are logged again.
    """

    def __init__(self, config: Config | TrainConfig) -> None:
        self.config, self.logger = config, make_logger(config)
        self.logger.log_hyperparams(to_plain(config))
        self.rows: dict[str, int] = {}

    def video(self, path: Path, record: dict[str, Any]) -> None:
        step = self.rows.setdefault(path.stem, len(self.rows))
        self.logger.log_metrics(figures(record), step=step)

    def earlier(self, path: Path, record: dict[str, Any]) -> None:
        self.video(path, record)

    def scores(self, scores: dict[str, Any]) -> None:
        recipes = {f"recipe/{name}": recipe for name, recipe in score_recipes(scores).items()}
        self.logger.log_hyperparams({**to_plain(self.config), **recipes})
        for id, values in scores["per_video"].items():
            row = {f"metrics/{name}": value for name, value in values.items()}
            self.logger.log_metrics(row, step=self.rows[id])
        self.logger.log_metrics(score_figures(scores), step=len(self.rows))

    def training(self, values: dict[str, float], step: int) -> None:
        self.logger.log_metrics(values, step=step)

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        self.logger.save()
        self.logger.finalize("success")


def make_logger(config: Config | TrainConfig) -> Logger:
    """The logger of ``config.tracker``. Raises ConfigError unless it names a Lightning logger."""
    settings = config.tracker
    if settings.kind == "csv":
        return _named("lightning.pytorch.loggers.CSVLogger")(config.run_dir, name="csv", version="")
    options = {"save_dir": config.run_dir, **settings.options}
    try:
        return _named(settings.logger or "")(**options)
    except TypeError as error:
        raise ConfigError(f"tracker.options={settings.options} do not fit: {error}") from None


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"tracker.logger={path} cannot be imported") from None
    if not (isinstance(found, type) and issubclass(found, Logger)):
        raise ConfigError(
            f"tracker.logger={path} is no logger of Lightning;"
            " try lightning.pytorch.loggers.TensorBoardLogger"
        )
    return found
