"""A score of another program, read from the CSV that it has written: MUSIQ's, DOVER's.

``evaluate_a_set_of_videos.py`` of https://github.com/VQAssessment/DOVER writes the columns path,
aesthetic score, technical score, overall/final score. A file of MUSIQ has path and musiq.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pixelwizard.evaluation.imported import Imported, NotImported
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.names import AUTO, how_to_get


class ResultFile(Imported):
    """A column of the files ``PROGRAM*.csv``; more is better."""

    def __init__(self, program: str, column: str) -> None:
        super().__init__()
        self.program, self.pattern, self.column = program, f"{program}*.csv", column
        name = program if column == program else f"{program}-{column}"
        self.convention = f"{name}/imported/n={{n}}"

    def prepare(self, given: Given) -> None:
        """Read the files. Raises NotImported without any, ValueError for one that is another's."""
        try:
            super().prepare(given)
        except NotImported as error:
            raise NotImported(f"{error}; or {how_to_get(AUTO[self.program])}") from None

    def read(self, files: Sequence[Path]) -> dict[str, float]:
        """The values of the column whose head begins with that word, by the names in ``path``.

        Raises ValueError for a file that lacks one of the two, or a number.
        """
        found: dict[str, float] = {}
        for file in files:
            with open(file, newline="", encoding="utf-8") as lines:
                for row in csv.DictReader(lines, skipinitialspace=True):
                    named = {str(head).strip().lower(): value for head, value in row.items()}
                    heads = [head for head in named if head.startswith(self.column)]
                    if "path" not in named or not heads:
                        raise ValueError(f"{file.name} needs the columns path and {self.column}")
                    value, path = named[heads[0]], named["path"]
                    try:
                        found[Path(path).stem] = float(value)
                    except (TypeError, ValueError):
                        said = f"{file.name}: {value!r} for {path} is not a number"
                        raise ValueError(said) from None
        return found
