"""Banding by CAMBI of libvmaf, which ffmpeg may have: 0 where there is none, about 24 at worst.

Tandon et al., "CAMBI: Contrast-aware Multiscale Banding Index" (PCS 2021, arXiv 2102.00079).
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from pixelwizard.evaluation.ffmpeg import OfFilter, described
from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.score import Unavailable

LEAST = 216
"""The longer side that CAMBI needs, in pixels."""


class CAMBI(OfFilter):
    """Banding; less is smoother."""

    filter = "libvmaf"

    def prepare(self, given: Given) -> None:
        """Raises Unavailable without libvmaf, and for frames that CAMBI refuses."""
        if min(max(clip.size) for clip in given.clips) < LEAST:
            raise Unavailable(f"a video is smaller than {LEAST} pixels")
        super().prepare(given)

    def figures(self, clip: Clip, chosen: str) -> list[float]:
        """The index of each frame. Raises VideoError."""
        with TemporaryDirectory() as folder:
            log = Path(folder) / "cambi.json"
            feature = f"libvmaf=model='':feature=name=cambi:log_fmt=json:log_path={log}"
            graph = f"[0:v]{chosen},format=yuv420p,split[a][b];[a][b]{feature}"
            described(
                ["-i", str(clip.path), "-an", "-lavfi", graph, "-f", "null", "-"],
                f"{clip.path.name} cannot be measured",
            )
            frames = json.loads(log.read_text(encoding="utf-8"))["frames"]
        return [float(frame["metrics"]["cambi"]) for frame in frames]
