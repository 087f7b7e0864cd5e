"""MUSIQ, from a result file: the mean of a video's frames, 0..100 with the KonIQ weights.

Ke et al., arXiv 2108.05997. The implementation that may be used freely is Google's own,
https://github.com/google-research/google-research/tree/master/musiq (Apache-2.0, weights too);
pyiqa's is not for commercial use. The CSV has the columns path and musiq.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelwizard.evaluation.imported import Imported, column_by_name


class MUSIQ(Imported):
    """MUSIQ; more is better."""

    pattern = "musiq*.csv"
    convention = "musiq/imported/n={n}"

    def read(self, files: Sequence[Path]) -> dict[str, float]:
        """The values."""
        return column_by_name(files, "musiq")
