"""HD-MSE: the loss when a frame is downscaled by 8, 16, 32 and upscaled again.

From UltraGen (arXiv 2510.18775, appendix D) in PixelWizard's form: bilinear both ways, values in
0..1, the sum over the three factors, the mean over frames; higher is more detail. Noise counts as
detail: ``hd_mse_noise`` estimates its share.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from pixelwizard.evaluation.metrics.base import VideoMetric, as_image

FACTORS = (8, 16, 32)
CONVENTION = "k345/rgb01/16f-uniform/n={n}"


def hd_mse(image_3HW: Tensor) -> float:
    """HD-MSE of an image in 0..1."""
    return lost(image_3HW, lambda one, two: float(mse_loss(one, two)))


def lost(image_3HW: Tensor, distance: Callable[[Tensor, Tensor], float]) -> float:
    """The sum over the factors of the distance to the image shrunk and enlarged, [1, 3, H, W]."""
    image = image_3HW[None]
    height, width = size = image.shape[-2:]
    total = 0.0
    for factor in FACTORS:
        small = max(1, height // factor), max(1, width // factor)
        shrunk = interpolate(image, small, mode="bilinear", align_corners=False)
        back = interpolate(shrunk, size, mode="bilinear", align_corners=False)
        total += distance(image, back)
    return total


class HDMSE(VideoMetric):
    """HD-MSE; more is more detail."""

    convention = CONVENTION
    look = staticmethod(lambda frame, before: hd_mse(as_image(frame)))
