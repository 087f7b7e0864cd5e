"""PSNR of a video against the real video of the same name, by ffmpeg's filter."""

from __future__ import annotations

from pixelwizard.evaluation.ffmpeg import Paired


class PSNR(Paired):
    """Peak signal-to-noise ratio, in dB; more is more alike.

    Equal videos, whose ratio has no bound, get 100.
    """

    filter = "psnr"
    pattern = r"PSNR .*average:(\S+)"
    most = 100.0
