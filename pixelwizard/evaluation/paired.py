"""PSNR, SSIM and VMAF of a video against the real video of the same name, by ffmpeg's filters.

Both are compared as 8-bit yuv420p, frame by frame; their timestamps are ignored.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

from pixelwizard.evaluation.ffmpeg import described, has_filter
from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.metrics.base import Given, VideoMetric
from pixelwizard.evaluation.score import NO_PAIRS, Unavailable


class Paired(VideoMetric):
    """A metric of a video against the real video of its name, size and length.

    ``filter`` is ffmpeg's, ``pattern`` finds the value in what it says; ``most`` bounds the value.
    """

    convention = "ffmpeg-yuv420p/n={n}"
    filter = pattern = ""
    most = math.inf

    def prepare(self, given: Given) -> None:
        """Raises Unavailable where there are no pairs, or where ffmpeg lacks the filter."""
        if not given.reference:
            raise Unavailable("needs reference=DIR")
        if not given.pairs:
            raise Unavailable(NO_PAIRS)
        if not has_filter(self.filter):
            raise Unavailable(f"this ffmpeg was built without {self.filter}")

    def update(self, clip: Clip, pair: Clip) -> None:  # type: ignore[override]
        """Take a video and its pair."""
        value = self.similarity(clip.path, pair.path)
        super().update(torch.tensor([value], dtype=torch.float64))

    @classmethod
    def similarity(cls, video: Path, reference: Path) -> float:
        """Of a video and one of its size and length. Raises VideoError where one is unreadable."""
        clock = "settb=AVTB,setpts=N/24/TB,format=yuv420p"
        graph = f"[0:v]{clock}[v];[1:v]{clock}[r];[v][r]{cls.filter}=shortest=1"
        said = described(
            ["-i", str(video), "-i", str(reference), "-lavfi", graph, "-f", "null", "-"],
            f"{video.name} cannot be compared with its reference",
        )
        return min(float(re.findall(cls.pattern, said)[-1]), cls.most)
