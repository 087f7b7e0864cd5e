"""Temporal information after ITU-T P.910: how much the most changing pair of frames changes.

The standard deviation of the difference of luma between adjacent frames, the greatest over the
clip.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.evaluation.metrics.base import Sampling, VideoMetric, luma


def temporal_information(frame_HWC: Tensor, before: Tensor | None) -> float | None:
    """The deviation of the change over a frame; None for the first one."""
    if before is None:
        return None
    return float(luma(frame_HWC).sub_(luma(before)).std(correction=0))


class TemporalInformation(VideoMetric):
    """TI; more is more motion, flicker included."""

    sampling = Sampling("all", least=2)
    temporal = True
    convention = "p910-max/luma709/all/n={n}"
    look = staticmethod(temporal_information)
    pooled = staticmethod(torch.max)
