"""Trackers, which record a run besides its folder: W&B, CSV files, or any Lightning logger.

This file has the interface, a tracker that records nothing, and the figures for all trackers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

Warn = Callable[[str], None]
"""Takes a sentence for the user."""


class Tracker:
    """Gets stages and videos as they finish, the scores of all videos, and the end of the run.

    ``loggers`` are Lightning's, to be attached to a trainer: they take the figures of training.
    """

    loggers: Sequence[Logger] = ()

    def stage(self, id: str, name: str, cost: dict[str, float]) -> None:
        """A stage of prompt ``id`` has ended; ``cost`` has ``seconds`` and ``peak_gb``."""

    def video(self, path: Path, record: dict[str, Any]) -> None:
        """A video is finished; ``record`` is its provenance, with the cost of every stage."""

    def earlier(self, path: Path, record: dict[str, Any]) -> None:
        """A video that an earlier, interrupted call for this run folder finished."""
        self.video(path, record)

    def scores(self, scores: dict[str, Any]) -> None:
        """The videos were scored; ``scores`` is the content of ``metrics.json``."""

    def sample(self, path: Path, caption: str, step: int) -> None:
        """A sample video of a training run after ``step`` steps."""

    def recover(self) -> bool:
        """Continue in another way after an error; False if nothing more can be recorded."""
        return False

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        """The run is over; ``sheet`` is the contact sheet, if it has one.

        ``done``: a run without a sheet has ended well.
        """


def figures(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a video, flat: ``anchor/seconds``, ``detail/peak_gb``, ``detail/nfe``, ..."""
    costs = {
        f"{stage}/{name}": value
        for stage, cost in record["stages"].items()
        for name, value in cost.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    stages = [stage for stage in ("anchor", "detail") if stage in record]
    return costs | {f"{stage}/nfe": record[stage]["nfe"] for stage in stages}


def score_figures(scores: dict[str, Any]) -> dict[str, float]:
    """The scores of the set, flat, under their recipes: ``metrics/flicker/mae255/all/n=4``.

    Beside each are the ends of its interval, ``.../low`` and ``.../high``. ``metrics/flicker`` is
    the value again, for a search that must know its goal before the run.
    """
    plain = {f"metrics/{score['name']}": score["value"] for score in scores["set"]}
    return plain | {
        f"metrics/{score['recipe']}{suffix}": score[key]
        for score in scores["set"]
        for suffix, key in (("", "value"), ("/low", "low"), ("/high", "high"))
    }


def score_recipes(scores: dict[str, Any]) -> dict[str, str]:
    """The recipe of each score, flat: ``set/fvd`` of all videos, ``video/clip`` of one."""
    whole = {f"set/{score['name']}": score["recipe"] for score in scores["set"]}
    return whole | {f"video/{name}": recipe for name, recipe in scores["recipes"].items()}
