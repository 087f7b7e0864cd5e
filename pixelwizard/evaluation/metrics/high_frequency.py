"""High-frequency energy: what a frame has that a frame of half its sides could not hold.

The root mean square, in 0..255, of luma above half the Nyquist frequency along either axis, the
mean over frames. Frames are weighted by a Hann window, as the spectrum joins their opposite edges.
Enlarging by two adds little of it; detail does, and so does noise, of which ``hd_mse_noise``
estimates the share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.evaluation.metrics.base import VideoMetric, luma


def high_frequency(frame_HWC: Tensor) -> float:
    """The energy of one uint8 frame."""
    grey = luma(frame_HWC)
    height, width = grey.shape
    down, across = (torch.hann_window(size, periodic=False) for size in (height, width))
    grey.sub_(grey.mean()).mul_(down[:, None]).mul_(across)
    columns = torch.fft.rfft(grey, norm="ortho")
    low = int((torch.fft.rfftfreq(width) <= 0.25).sum())
    # Columns of a high frequency count whole, so their second transform would change nothing.
    rows = torch.fft.fft(columns[:, :low], dim=0, norm="ortho")
    above = torch.fft.fftfreq(height).abs() > 0.25
    power = torch.cat([_power(rows[above]), _power(columns[:, low:])])
    power[1 : (width + 1) // 2] *= 2  # these columns also stand for their mirror images
    weight = down.double().square().sum() * across.double().square().sum()
    return float((power.sum() / weight).sqrt())


def _power(values_HW: Tensor) -> Tensor:
    """The sum of squared magnitudes of every column, float64."""
    return torch.view_as_real(values_HW).square().sum(dim=(0, 2)).double()


class HighFrequency(VideoMetric):
    """High-frequency energy; more is more detail."""

    convention = "rms255/bt709/hann/16f-uniform/n={n}"
    look = staticmethod(lambda frame, before: high_frequency(frame))
