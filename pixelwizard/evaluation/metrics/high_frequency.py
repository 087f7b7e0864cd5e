"""High-frequency energy: what a frame has that a frame of half its sides could not hold.

The root mean square, in 0..255, of luma above half the Nyquist frequency along either axis, the
mean over frames. Frames are weighted by a Hann window, as the spectrum joins their opposite edges.
Enlarging by two adds little of it; detail does, and so does noise, of which ``hd_mse_noise``
estimates the share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.evaluation.luma import luma
from pixelwizard.evaluation.metrics.base import VideoMetric


def high_frequency(frame_HWC: Tensor) -> float:
    """The energy of one uint8 frame."""
    grey = luma(frame_HWC)
    height, width = grey.shape
    window = torch.hann_window(height, periodic=False)[:, None]
    window = window * torch.hann_window(width, periodic=False)
    power = torch.fft.rfft2((grey - grey.mean()) * window, norm="ortho").abs().square()
    power[:, 1 : (width + 1) // 2] *= 2  # these columns also stand for their mirror images
    rows, columns = torch.fft.fftfreq(height).abs()[:, None], torch.fft.rfftfreq(width)
    above = power[torch.maximum(rows, columns) > 0.25].sum(dtype=torch.float64)
    return float((above / window.square().sum(dtype=torch.float64)).sqrt())


class HighFrequency(VideoMetric):
    """High-frequency energy; more is more detail."""

    convention = "rms255/bt709/hann/16f-uniform/n={n}"
    look = staticmethod(lambda frame, before: high_frequency(frame))
