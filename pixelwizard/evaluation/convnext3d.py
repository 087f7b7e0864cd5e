"""ConvNeXt for clips, as DOVER's aesthetic branch has it.

Liu et al., arXiv 2201.03545, its kernels inflated: 2 frames in the first layer, 3 in every second
block of three. Names of the weights as in https://github.com/VQAssessment/DOVER. B clips, C
channels, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

FRAMES = (1, 3, 1)
"""That a block's kernel spans, block after block."""


class ConvNeXt3D(nn.Module):
    """[B, 3, T, H, W] -> [B, C, T / 2, H / 32, W / 32]."""

    def __init__(self, depths: Sequence[int], width: int) -> None:
        super().__init__()
        widths = [width * 2**number for number in range(len(depths))]
        stem = nn.Sequential(nn.Conv3d(3, width, (2, 4, 4), (2, 4, 4)), _ChannelNorm(width))
        halving = (
            nn.Sequential(_ChannelNorm(given), nn.Conv3d(given, out, (1, 2, 2), (1, 2, 2)))
            for given, out in pairwise(widths)
        )
        self.downsample_layers = nn.ModuleList([stem, *halving])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(wide, FRAMES[place % 3]) for place in range(depth)))
            for wide, depth in zip(widths, depths, strict=True)
        )
        self.norm = _ChannelNorm(widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        for smaller, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(smaller(x))
        return self.norm(x)


class _ChannelNorm(nn.LayerNorm):
    """Over the channels of [B, C, T, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    """Filter every channel, mix channels; added to the input."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        kernel, margin = (frames, 7, 7), (frames // 2, 3, 3)
        self.dwconv = nn.Conv3d(width, width, kernel, padding=margin, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).movedim(1, -1))
        y = self.pwconv2(gelu(self.pwconv1(y))) * self.gamma
        return x + y.movedim(-1, 1)
