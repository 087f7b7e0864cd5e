"""Temporal flicker: how much pixels change from one frame to the next.

The mean absolute difference over all pixels and adjacent frames, 0..255: VBench's temporal
flickering before its inversion. Motion counts too, so compare videos of the same prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.evaluation.metrics.base import ROWS, Sampling, VideoMetric


def change(frame_HWC: Tensor, before: Tensor | None) -> float | None:
    """The mean absolute difference of two uint8 frames; None for the first frame."""
    if before is None:
        return None
    total = 0
    for strip, earlier in zip(frame_HWC.split(ROWS), before.split(ROWS), strict=True):
        # of unsigned values: the larger minus the smaller
        apart = strip.maximum(earlier) - strip.minimum(earlier)
        total += int(apart.sum(dtype=torch.int64))
    return total / frame_HWC.numel()


class Flicker(VideoMetric):
    """Temporal flicker; less is steadier."""

    higher_is_better = False
    sampling = Sampling("all", least=2)
    temporal = True
    convention = "mae255/all/n={n}"
    look = staticmethod(change)
