"""Scores that another program computed, from its result file beside the videos.

Files lie in a folder ``results`` next to the videos or in their run folder. Values go by the name
of the video without suffix.
"""

from __future__ import annotations

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
    lacking = "has no value for any of the videos"
    """What is said of files without a value."""

    def prepare(self, given: Given) -> None:
        """Read the files. Raises NotImported without any, ValueError for one that is another's."""
        self.found = self.values_of(given.clips)
        if self.found:
            return
        if not result_files([clip.path for clip in given.clips], self.pattern):
            raise NotImported(f"no {self.pattern} in a folder results next to the videos")
        raise Unavailable(f"{self.pattern} in results {self.lacking}")

    def values_of(self, clips: Sequence[Clip]) -> dict[str, float]:
        """The values by the id of the video; the newest file counts. Raises ValueError."""
        read: dict[tuple[Path, ...], dict[str, float]] = {(): {}}
        found: dict[str, float] = {}
        for clip in clips:
            files = tuple(result_files([clip.path], self.pattern))
            if files not in read:
                read[files] = self.read(files)
            if named := [name for name in self.names(clip) if name in read[files]]:
                found[clip.id] = read[files][named[0]]
        return found

    def names(self, clip: Clip) -> list[str]:
        """What the files may call a video; the first that they have counts."""
        return [clip.path.stem]

    @abstractmethod
    def read(self, files: Sequence[Path]) -> dict[str, float]:
        """The values by the name of the video."""

    def update(self, clip: Clip) -> None:  # type: ignore[override]
        """Take the value of a video. Raises ValueError where there is none."""
        if clip.id not in self.found:
            raise ValueError(f"no result for {clip.path.name}")
        super().update(torch.tensor([self.found[clip.id]], dtype=torch.float64))
