"""VBench's dimensions for any videos, from the result file of its own program.

Huang et al., arXiv 2311.17982; ``vbench evaluate --mode custom_input`` of the package ``vbench``
(Apache-2.0, its networks under their own licences) writes NAME_eval_results.json: by dimension the
mean and a value for each video. The whole score is the mean of the six dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pixelwizard.evaluation.imported import Imported
from pixelwizard.evaluation.metrics.base import Given

DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)


class VBench(Imported):
    """One dimension, or the mean of all six; 0..1, more is better."""

    pattern = "*_eval_results.json"

    def __init__(self, dimension: str = "") -> None:
        super().__init__()
        self.dimension = dimension

    def prepare(self, given: Given) -> None:
        """Read the files."""
        super().prepare(given)
        self.convention = f"vbench-custom_input/{self.dimension or 'mean6'}/imported/n={{n}}"

    def read(self, files: Sequence[Path]) -> dict[str, float]:
        """The values of the dimension; a mean needs all six of a video."""
        found = [
            _values(files, name) for name in ([self.dimension] if self.dimension else DIMENSIONS)
        ]
        shared = set(found[0]).intersection(*found)
        return {id: fmean(values[id] for values in found) for id in shared}


def _values(files: Sequence[Path], dimension: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for file in files:
        try:
            results: Any = json.loads(file.read_text(encoding="utf-8"))
            for one in results.get(dimension, [0, []])[1]:
                value = float(one["video_results"])
                # of imaging quality only the mean is divided by 100
                scale = 100 if dimension == "imaging_quality" else 1
                found[Path(one["video_path"]).stem] = value / scale
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"{file.name} is not a result file of VBench") from error
    return found
