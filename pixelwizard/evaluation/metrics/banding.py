"""Banding by CAMBI of libvmaf, which ffmpeg may have: 0 where there is none, about 24 at worst.

Tandon et al., "CAMBI: Contrast-aware Multiscale Banding Index" (PCS 2021, arXiv 2102.00079).
"""

from __future__ import annotations

from pixelwizard.evaluation.ffmpeg import OfFilter, cambi
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
        """The index of each frame."""
        return cambi(clip, chosen)
