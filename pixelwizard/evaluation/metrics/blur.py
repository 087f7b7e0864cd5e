"""Blur by ffmpeg's blurdetect: how wide edges are, in pixels.

Marziliano et al., "A No-Reference Perceptual Blur Metric" (ICIP 2002). Noise makes edges narrow, so
compare it beside hd-mse-noise.
"""

from __future__ import annotations

from pixelwizard.evaluation.ffmpeg import OfFilter


class BlurDetect(OfFilter):
    """The mean width of edges; less is sharper."""

    filter = "blurdetect"
    key = "blur"
