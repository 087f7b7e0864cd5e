"""HD-MSE: the loss when a frame is downscaled by 8, 16, 32 and upscaled again.

From UltraGen (arXiv 2510.18775, appendix D) in PixelWizard's form: bilinear both ways, values in
0..1, the sum over the three factors, the mean over frames; higher is more detail. Noise counts as
detail: ``hd_mse_noise`` estimates its share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pixelwizard.evaluation.metrics.base import ROWS, VideoMetric

FACTORS = (8, 16, 32)
CONVENTION = "k345/rgb01/16f-uniform/n={n}"


def hd_mse(frame_HWC: Tensor) -> float:
    """HD-MSE of a frame in 0..255, strip by strip: the frame is never whole as floats.

    ``lost`` with the mean squared error gives the same, at eight times the time and memory.
    """
    height, width, _ = frame_HWC.shape
    enlarged = [_enlarged(frame_HWC, factor) for factor in FACTORS]
    total = 0.0
    for top in range(0, height, ROWS):
        strip = frame_HWC[top : top + ROWS].flatten(1).float()
        for wide, rows in enlarged:
            back, used = rows.matrix(top, top + len(strip))
            apart = torch.addmm(strip, back, wide[used], alpha=-1)
            total += float(torch.linalg.vecdot(apart, apart).double().sum())
    return total / frame_HWC.numel() / 255**2


def lost(image_3HW: Tensor, distance: Callable[[Tensor, Tensor], float]) -> float:
    """The sum over the factors of the distance to the image shrunk and enlarged, [1, 3, H, W]."""
    image = image_3HW[None]
    size = (image.shape[-2], image.shape[-1])
    total = 0.0
    for factor in FACTORS:
        small = [max(1, length // factor) for length in size]
        shrunk = interpolate(image, small, mode="bilinear", align_corners=False)
        back = interpolate(shrunk, size, mode="bilinear", align_corners=False)
        total += distance(image, back)
    return total


@dataclass(frozen=True)
class _Line:
    """Bilinear places of ``count`` new pixels along ``size`` old ones: two neighbours, a weight."""

    low: Tensor
    high: Tensor
    weight: Tensor

    @staticmethod
    def of(size: int, count: int) -> _Line:
        places = ((torch.arange(count) + 0.5) * (size / count) - 0.5).clamp_(min=0)
        low = places.long()
        return _Line(low, (low + 1).clamp_(max=size - 1), places - low)

    def matrix(self, first: int, last: int) -> tuple[Tensor, slice]:
        """The new pixels from ``first`` to ``last`` as sums of a slice of the old ones."""
        low, high, weight = (part[first:last, None] for part in (self.low, self.high, self.weight))
        start, end = int(low[0]), int(high[-1]) + 1
        found = torch.zeros(len(low), end - start).scatter_add_(1, low - start, 1 - weight)
        return found.scatter_add_(1, high - start, weight), slice(start, end)


def _resized(values: Tensor, dim: int, count: int) -> Tensor:
    """Bilinear along one axis, without smoothing first."""
    line = _Line.of(values.shape[dim], count)
    weight = line.weight.view(-1, *[1] * (values.dim() - dim - 1))
    low, high = (values.index_select(dim, at).float() for at in (line.low, line.high))
    return torch.lerp(low, high, weight)


def _enlarged(frame_HWC: Tensor, factor: int) -> tuple[Tensor, _Line]:
    """The frame shrunk and its rows enlarged again, [h, W C]; and how the rows become H."""
    height, width, _ = frame_HWC.shape
    small = _resized(_resized(frame_HWC, 0, max(1, height // factor)), 1, max(1, width // factor))
    return _resized(small, 1, width).flatten(1), _Line.of(len(small), height)


class HDMSE(VideoMetric):
    """HD-MSE; more is more detail."""

    convention = CONVENTION
    look = staticmethod(lambda frame, before: hd_mse(frame))
