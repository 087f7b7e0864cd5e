"""Spatial information after ITU-T P.910: how much fine structure the richest frame has.

The standard deviation of the Sobel-filtered luma, the greatest over 16 frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.evaluation.metrics.base import VideoMetric, luma


def spatial_information(frame_HWC: Tensor) -> float:
    """The deviation of the gradient's length over the pixels that have all neighbours."""
    grey = luma(frame_HWC)
    smooth = grey[:-2] + 2 * grey[1:-1] + grey[2:]
    across = smooth[:, 2:] - smooth[:, :-2]
    steep = grey[2:] - grey[:-2]
    down = steep[:, :-2] + 2 * steep[:, 1:-1] + steep[:, 2:]
    return float(across.square_().add_(down.square_()).sqrt_().std(correction=0))


class SpatialInformation(VideoMetric):
    """SI; more is more structure, noise included."""

    convention = "p910-max/luma709/16f-uniform/n={n}"
    look = staticmethod(lambda frame, before: spatial_information(frame))
    pooled = staticmethod(torch.max)
