"""Weighted sums of a frame's channels, strip by strip: no float copy of a frame is ever whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BT709 = (0.2126, 0.7152, 0.0722)
"""Full-range luma of ITU-R BT.709, 0..255."""
ROWS = 96


def luma(frame_HWC: Tensor, weights: Sequence[float] = BT709) -> Tensor:
    """A uint8 frame -> float32 [H, W]."""
    rgb, factors = frame_HWC.numpy(), np.asarray(weights, np.float32)
    out = np.empty(rgb.shape[:2], np.float32)
    for top in range(0, len(rgb), ROWS):
        np.dot(rgb[top : top + ROWS].astype(np.float32), factors, out=out[top : top + ROWS])
    return torch.from_numpy(out)
