"""Blockiness by ffmpeg's blockdetect: how regular edges are on a grid, 1 where there is none.

Muijs and Kirenko, "A no-reference blocking artifact measure for adaptive video processing" (EUSIPCO
2005).
"""

from __future__ import annotations

from pixelwizard.evaluation.ffmpeg import OfFilter


class BlockDetect(OfFilter):
    """Blockiness; less is smoother."""

    filter = "blockdetect"
    key = "block"
