"""Runs in Lightning loggers: CSV files, or a user's class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import write_text
from pixelwizard.tracking import Tracker, figures, score_figures, score_recipes


class StepTable:
    """A CSV file whose rows begin with a step; names that it has no column for add one.

    Added columns are in the order of the alphabet, whichever came first.
    """

    def __init__(self, path: Path, columns: Sequence[str] = ("step",)) -> None:
        self.path, self.first, self.columns = path, tuple(columns), list(columns)

    def rows(self) -> list[dict[str, str]]:
        """What is written, without a line that was torn. Raises ConfigError for another file."""
        if not self.path.is_file():
            return []
        try:
            with open(self.path, encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(line for line in file if line.endswith("\n")))
            if not all(int(row["step"]) >= 0 and None not in row for row in rows):
                raise ValueError("a row of another table")
        except (csv.Error, KeyError, TypeError, ValueError):
            raise ConfigError(f"{self.path} is damaged: its rows are no steps; remove it") from None
        return rows

    def keep(self, step: int) -> None:
        """Drop the rows after ``step``."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        self._widen(rows)
        header = dict(zip(self.columns, self.columns, strict=True))
        write_text(self.path, self._text([header, *rows]))

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows."""
        rows = list(rows)
        if self._widen(rows):
            self.keep(max(int(row["step"]) for row in (*self.rows(), *rows)))
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(self._text(rows))

    def _widen(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Take the names of ``rows`` as columns; whether one is new."""
        before = len(self.columns)
        names = {name for row in rows for name in row}.union(self.columns)
        self.columns = [*self.first, *sorted(names.difference(self.first))]
        return len(self.columns) > before

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        return text.getvalue()


class LoggerRun(Tracker):
    """The settings and the recipes of scores as hyperparameters, rows of figures for every video
    and, one step later, for all of them.

    Loggers begin anew when a run is continued, so earlier videos are logged again.
    """

    def __init__(self, config: GenerateConfig | TrainConfig, logger: Logger) -> None:
        self.config, self.logger = config, logger
        self.loggers = [logger]
        logger.log_hyperparams(to_plain(config))
        self.rows: dict[str, int] = {}

    def video(self, path: Path, record: dict[str, Any]) -> None:
        step = self.rows.setdefault(path.stem, len(self.rows))
        self.logger.log_metrics(figures(record), step=step)

    def scores(self, scores: dict[str, Any]) -> None:
        recipes = {f"recipe/{name}": recipe for name, recipe in score_recipes(scores).items()}
        self.logger.log_hyperparams({**to_plain(self.config), **recipes})
        for id, values in scores["per_video"].items():
            row = {f"metrics/{name}": value for name, value in values.items()}
            self.logger.log_metrics(row, step=self.rows[id])
        self.logger.log_metrics(score_figures(scores), step=len(self.rows))

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        self.logger.save()
        self.logger.finalize("success")


class CSVRows(Logger):
    """``metrics.csv``, where every row is written at once, and ``hparams.yaml``.

    A continued run appends to the file and replaces rows from the first step that it logs again,
    so an interrupted run leaves the same file as an uninterrupted one.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.begun = folder, False
        self.table = StepTable(folder / "metrics.csv")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        text = yaml.safe_dump(dict(params), sort_keys=False, allow_unicode=True)
        write_text(self.folder / "hparams.yaml", text)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        number = int(step or 0)  # older versions of Lightning give 1.0
        if not self.begun:
            self.go_on(number - 1)
        self.table.add([{"step": number, **self.values(metrics)}])

    def go_on(self, step: int) -> None:
        """Keep the rows up to ``step``."""
        self.table.keep(step)
        self.begun = True

    def values(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """Figures as they are written."""
        return {name: f"{float(value)}" for name, value in metrics.items()}
