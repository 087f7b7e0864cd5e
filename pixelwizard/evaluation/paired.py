"""PSNR, SSIM and VMAF of a video against the real video of the same name, by ffmpeg's filters.

Both are compared as 8-bit yuv420p, frame by frame; their timestamps are ignored.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pixelwizard.evaluation.ffmpeg import described, has_filter
from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.metrics.base import Given, VideoMetric
from pixelwizard.evaluation.score import NO_PAIRS, Unavailable

MOST_PSNR = 100.0
"""Decibels that equal videos get, whose PSNR has no bound."""
_FILTERS = {
    "psnr": ("psnr", r"PSNR .*average:(\S+)"),
    "ssim": ("ssim", r"SSIM .*All:(\S+)"),
    "vmaf": ("libvmaf", r"VMAF score: (\S+)"),
}


class Paired(VideoMetric):
    """A metric of a video against the real video of its name, size and length."""

    convention = "ffmpeg-yuv420p/n={n}"
    score = ""
    """Which of the three."""

    def prepare(self, given: Given) -> None:
        """Raises Unavailable where there are no pairs, or where ffmpeg lacks the filter."""
        if not given.reference:
            raise Unavailable("needs reference=DIR")
        if not given.pairs:
            raise Unavailable(NO_PAIRS)
        if self.score not in available():
            raise Unavailable(f"this ffmpeg was built without {_FILTERS[self.score][0]}")

    def update(self, clip: Clip, pair: Clip) -> None:  # type: ignore[override]
        """Take a video and its pair."""
        value = similarity(self.score, clip.path, pair.path)
        super().update(torch.tensor([value], dtype=torch.float64))


def available() -> list[str]:
    """Those of the three that this ffmpeg can compute."""
    return [name for name, (filter_, _) in _FILTERS.items() if has_filter(filter_)]


def similarity(score: str, video: Path, reference: Path) -> float:
    """``psnr``, ``ssim`` or ``vmaf`` of a video against one of the same size and length.

    Raises VideoError if one of them cannot be read.
    """
    name, pattern = _FILTERS[score]
    clock = "settb=AVTB,setpts=N/24/TB,format=yuv420p"
    graph = f"[0:v]{clock}[v];[1:v]{clock}[r];[v][r]{name}=shortest=1"
    said = described(
        ["-i", str(video), "-i", str(reference), "-lavfi", graph, "-f", "null", "-"],
        f"{video.name} cannot be compared with its reference",
    )
    value = float(re.findall(pattern, said)[-1])
    return min(value, MOST_PSNR) if score == "psnr" else value
