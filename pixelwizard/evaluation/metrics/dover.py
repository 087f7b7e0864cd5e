"""DOVER, from the result file of its own program.

Wu et al., arXiv 2211.04894; evaluate_a_set_of_videos.py of https://github.com/VQAssessment/DOVER
(S-Lab licence, not for commercial use: neither code nor weights are here) writes a CSV with the
columns path, aesthetic score, technical score, overall/final score. The package ``dover`` is
another project.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelwizard.evaluation.imported import Imported, column_by_name
from pixelwizard.evaluation.metrics.base import Given


class DOVER(Imported):
    """The overall score, or the technical or aesthetic one; more is better."""

    pattern = "dover*.csv"

    def __init__(self, part: str = "overall") -> None:
        super().__init__()
        self.part = part

    def prepare(self, given: Given) -> None:
        """Read the files."""
        super().prepare(given)
        self.convention = f"dover-{self.part}/imported/n={{n}}"

    def read(self, files: Sequence[Path]) -> dict[str, float]:
        """The values of the part."""
        return column_by_name(files, self.part)
