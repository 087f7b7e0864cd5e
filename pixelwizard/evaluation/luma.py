"""Weighted sums of a frame's channels, strip by strip: no float copy of a frame is ever whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BT709 = (0.2126, 0.7152, 0.0722)
"""Full-range luma of ITU-R BT.709, 0..255."""
ROWS = 16


def luma(frame_HWC: Tensor, weights: Sequence[float] = BT709) -> Tensor:
    """A uint8 frame -> float32 [H, W]."""
    factors, out = torch.tensor(weights), torch.empty(frame_HWC.shape[:2])
    for top in range(0, len(out), ROWS):
        strip = frame_HWC[top : top + ROWS].float()
        torch.matmul(strip, factors, out=out[top : top + ROWS])
    return out
