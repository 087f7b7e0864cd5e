"""SSIM of a video against the real video of the same name, by ffmpeg's filter."""

from __future__ import annotations

from pixelwizard.evaluation.ffmpeg import Paired


class SSIM(Paired):
    """Structural similarity, 0..1; more is more alike."""

    filter = "ssim"
    pattern = r"SSIM .*All:(\S+)"
