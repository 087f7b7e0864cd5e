"""DOVER: technical and aesthetic quality of a video, each by a network with a view of its own.

Wu et al., arXiv 2211.04894. Sizes, constants, views and the names of the weights as in
https://github.com/VQAssessment/DOVER, commit 411c62b (MIT). Where the original draws a place at
random, here it is the middle of those it may draw, so values repeat. The aesthetic network is a
ConvNeXt (Liu et al., arXiv 2201.03545), its kernels inflated: 2 frames in the first layer, 3 in
every second block of three. B clips, C channels, T frames, H, W pixels, S=224.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from pixelwizard.evaluation.swin3d import FRAGMENTS, Swin3D

SWIN, CONVNEXT, WIDTH, HIDDEN = (2, 2, 6, 2), (3, 3, 9, 3), 96, 64
SIDE, FRAGMENT = 224, 32
FRAMES, CLIPS, STEP = 32, 3, 2
"""Of a view; clips of the technical view, and the frames from one of it to the next."""
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of the colours, 0..255."""
SCALES = {"technical": (0.1107, 0.07355), "aesthetic": (-0.08285, 0.03774)}
"""Mean and deviation of the networks' outputs over videos."""
SHARES = {"technical": 0.6104, "aesthetic": 0.3896}
SPANS = (1, 3, 1)
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
            nn.Sequential(*(_Block(wide, SPANS[place % 3]) for place in range(depth)))
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


class _Head(nn.Module):
    """Features [B, C, T, H, W] -> the mean over places of a value each."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_hid, self.fc_last = nn.Conv3d(8 * WIDTH, HIDDEN, 1), nn.Conv3d(HIDDEN, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.fc_last(gelu(self.fc_hid(x)))
        return value.mean()


class DOVER(nn.Module):
    """Both branches with their heads; views are uint8 [T, S, S, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.technical_backbone = Swin3D(SWIN, WIDTH)
        self.aesthetic_backbone = ConvNeXt3D(CONVNEXT, WIDTH)
        self.technical_head, self.aesthetic_head = _Head(), _Head()

    def technical(self, fragments: Tensor) -> float:
        """Of the fragments of 3 clips, one after another."""
        clips = fragments.unflatten(0, (CLIPS, FRAMES))
        seen = (self.technical_backbone(_scaled(clip)).movedim(-1, 0)[None] for clip in clips)
        return math.fsum(float(self.technical_head(features)) for features in seen) / CLIPS

    def aesthetic(self, small: Tensor) -> float:
        """Of small frames."""
        return float(self.aesthetic_head(self.aesthetic_backbone(_scaled(small)[None])))


def _scaled(frames_TSSC: Tensor) -> Tensor:
    """[T, S, S, 3] -> float32 [3, T, S, S]."""
    mean, deviation = (frames_TSSC.new_tensor(v, dtype=torch.float32) for v in (MEAN, DEVIATION))
    return ((frames_TSSC.float() - mean) / deviation).movedim(-1, 0)


def quality(technical: float, aesthetic: float) -> dict[str, float]:
    """The networks' outputs -> 0..100 for either, and for both as ``overall``."""
    outputs = {"technical": technical, "aesthetic": aesthetic}
    scaled = {name: (outputs[name] - mean) / width for name, (mean, width) in SCALES.items()}
    scaled["overall"] = sum(share * scaled[name] for name, share in SHARES.items())
    return {name: 100 / (1 + math.exp(-value)) for name, value in scaled.items()}


def technical_frames(count: int) -> list[int]:
    """The frames of 3 clips in a video of ``count``; from a short one they begin again."""
    part = count // CLIPS
    start = _middle(part - FRAMES * STEP)
    every = [clip * part + start + STEP * place for clip in range(CLIPS) for place in range(FRAMES)]
    return [number % count for number in every]


def aesthetic_frames(count: int) -> list[int]:
    """A frame of each of 32 equal parts; of less than 32 frames only the first."""
    part = count // FRAMES
    return [part * place + _middle(part - STEP) for place in range(FRAMES)]


def _middle(room: int) -> int:
    """Of 0..room-1; 0 without room."""
    return max(room - 1, 0) // 2


def fragments(frame_HWC: Tensor) -> Tensor:
    """Squares of 32 pixels from the middle of 7x7 cells, as they are, side by side: [S, S, 3]."""
    for dim in (0, 1):
        pixels = frame_HWC.shape[dim]
        cell = pixels // FRAGMENTS
        starts = torch.arange(FRAGMENTS) * cell + _middle(cell - FRAGMENT)
        places = (starts[:, None] + torch.arange(FRAGMENT)).flatten()
        frame_HWC = frame_HWC.index_select(dim, places)
    return frame_HWC


def small(frame_HWC: Tensor) -> Tensor:
    """The frame stretched to [S, S, 3], bilinear."""
    frame = frame_HWC.permute(2, 0, 1)[None].float()
    frame = interpolate(frame, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return frame[0].round().to(torch.uint8).permute(1, 2, 0)


def load_dover(path: Path) -> DOVER:
    """The network of ``DOVER.pth``.

    Raises ValueError for another file, or one whose weights have other names or shapes.
    """
    with torch.device("meta"):
        network = DOVER()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        names = [name for name in state if not name.endswith("relative_position_index")]
        network.load_state_dict({name: state[name] for name in names}, assign=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the known DOVER.pth") from error
    return network.eval()
