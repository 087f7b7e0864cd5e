"""VMAF of a video against the real video of the same name, by ffmpeg's filter."""

from __future__ import annotations

from pixelwizard.evaluation.ffmpeg import Paired


class VMAF(Paired):
    """VMAF, 0..100; more is more alike."""

    filter = "libvmaf"
    pattern = r"VMAF score: (\S+)"
