"""Scores that another program computed, from its result file beside the videos.

Files lie in a folder ``results`` next to the videos or in their run folder. Values go by the name
of the video without suffix.
"""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch

from pixelwizard.evaluation.files import Clip, result_files
from pixelwizard.evaluation.metrics.base import Given, VideoMetric
from pixelwizard.evaluation.score import Unavailable


class NotImported(Unavailable):
    """There is no result file: nobody asked for this score."""


class Imported(VideoMetric):
    """The value that a result file has for each video."""

    pattern = ""
    """Which files of ``results``."""

    def prepare(self, given: Given) -> None:
        """Read the files of every video, the newest last.

        Raises NotImported without any file, ValueError for one that is another's.
        """
        self.found: dict[str, float] = {}
        read: dict[tuple[Path, ...], dict[str, float]] = {(): {}}
        for clip in given.clips:
            files = tuple(result_files([clip.path], self.pattern))
            if files not in read:
                read[files] = self.read(files)
            if clip.path.stem in read[files]:
                self.found[clip.id] = read[files][clip.path.stem]
        if len(read) == 1:
            raise NotImported(f"no {self.pattern} in a folder results beside the videos")
        if not self.found:
            raise Unavailable(f"{self.pattern} in results has no value for any of the videos")

    @abstractmethod
    def read(self, files: Sequence[Path]) -> dict[str, float]:
        """The values by the name of the video."""

    def update(self, clip: Clip) -> None:  # type: ignore[override]
        """Take the value of a video. Raises ValueError where there is none."""
        if clip.id not in self.found:
            raise ValueError(f"no result for {clip.path.name}")
        super().update(torch.tensor([self.found[clip.id]], dtype=torch.float64))


def column_by_name(files: Sequence[Path], column: str) -> dict[str, float]:
    """The numbers of the column whose head begins with a word, by the name of the file in ``path``.

    Raises ValueError for a file that lacks one of the two, or a number.
    """
    found: dict[str, float] = {}
    for file in files:
        with open(file, newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines, skipinitialspace=True):
                named = {str(head).strip().lower(): value for head, value in row.items()}
                heads = [head for head in named if head.startswith(column)]
                if "path" not in named or not heads:
                    raise ValueError(f"{file.name} needs the columns path and {column}")
                try:
                    found[Path(named["path"]).stem] = float(named[heads[0]])
                except (TypeError, ValueError):
                    said = f"{file.name}: {named[heads[0]]!r} for {named['path']} is not a number"
                    raise ValueError(said) from None
    return found
