"""The HD-MSE of white noise with the estimated strength of a frame's noise.

The deviation is estimated as in Immerkaer (CVIU 64, 1996): the mean absolute response to the second
difference in both directions, which straight edges do not pass. HD-MSE above this value is detail.
"""

from __future__ import annotations

import math

from torch import Tensor

from pixelwizard.evaluation.metrics.base import VideoMetric, as_image
from pixelwizard.evaluation.metrics.hd_mse import CONVENTION, FACTORS

NOISE_KEPT = 1 + 0.25 * (2 / 3) ** 2
"""White noise that is lost at each factor, as a share of its variance: its own and that of what
comes back, the mean of four pixels under bilinear weights whose squares sum to (2/3)^2 on average.
"""


def hd_mse_of_noise(image_3HW: Tensor) -> float:
    """The HD-MSE of an image's noise; the image is in 0..1."""
    response = _second_difference(_second_difference(image_3HW).transpose(1, 2))
    deviation = response.abs().mean(dim=(1, 2)) * math.sqrt(math.pi / 2) / 6
    return len(FACTORS) * NOISE_KEPT * float(deviation.square().mean())


def _second_difference(values: Tensor) -> Tensor:
    """Along the last axis."""
    return values[..., 2:] - 2 * values[..., 1:-1] + values[..., :-2]


class HDMSENoise(VideoMetric):
    """The control of HD-MSE; less is less noise."""

    higher_is_better = False
    convention = CONVENTION
    look = staticmethod(lambda frame, before: hd_mse_of_noise(as_image(frame)))
