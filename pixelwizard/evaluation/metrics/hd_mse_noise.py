"""The HD-MSE of white noise with the estimated strength of a frame's noise.

The deviation is estimated as in Immerkaer (CVIU 64, 1996): the mean absolute response to the second
difference in both directions, which straight edges do not pass. HD-MSE above this value is detail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelwizard.evaluation.metrics.base import ROWS, VideoMetric
from pixelwizard.evaluation.metrics.hd_mse import CONVENTION, FACTORS

NOISE_KEPT = 1 + 0.25 * (2 / 3) ** 2
"""White noise that is lost at each factor, as a share of its variance: its own and that of what
comes back, the mean of four pixels under bilinear weights whose squares sum to (2/3)^2 on average.
"""


def hd_mse_of_noise(frame_HWC: Tensor) -> float:
    """The HD-MSE of the noise of a frame in 0..255."""
    height, width, channels = frame_HWC.shape
    total = torch.zeros(channels, dtype=torch.float64)
    for top in range(0, height - 2, ROWS):
        strip = frame_HWC[top : top + ROWS + 2].flatten(1).float()
        down = _second_difference(strip, 0, 1)
        response = _second_difference(down, 1, channels).abs_().sum(dim=0)
        total += response.view(-1, channels).double().sum(dim=0)
    mean = total / ((height - 2) * (width - 2))
    deviation = mean * math.sqrt(math.pi / 2) / 6 / 255
    return len(FACTORS) * NOISE_KEPT * float(deviation.square().mean())


def _second_difference(values: Tensor, dim: int, step: int) -> Tensor:
    """Along an axis, of values that lie ``step`` apart."""
    size = values.shape[dim] - 2 * step
    one, two, three = (values.narrow(dim, step * place, size) for place in range(3))
    return one.sub(two, alpha=2).add_(three)


class HDMSENoise(VideoMetric):
    """The control of HD-MSE; less is less noise."""

    higher_is_better = False
    convention = CONVENTION
    look = staticmethod(lambda frame, before: hd_mse_of_noise(frame))
