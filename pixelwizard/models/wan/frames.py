"""What the autoencoder computes between its convolutions, for one frame, and how frames lie.

Frames [B, C, H, W] and weights lie with their channels last in memory (``torch.channels_last``).
The three taps of a convolution in time are three 2-D convolutions, whose results are added up where
the sum is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sum = tuple[Tensor, ...]
"""Tensors ``[B, C, H, W]`` that make a frame together; adding may overwrite the first of them."""
Sums = Iterator[Sum]
"""The frames of a clip in order of time, each as a sum."""
Frames = Iterator[Tensor]
"""The frames ``[B, C, H, W]`` of a clip in order of time."""


def activated(gamma: Tensor, *parts: Tensor) -> Tensor:
    """RMS norm of the sum over its channels, times ``gamma`` [C], then SiLU."""
    x = sum(parts[1:], parts[0])
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12)
    y = (x / length).mul_(len(gamma) ** 0.5 * gamma.view(-1, 1, 1))
    return F.silu(y, inplace=True)


def added(total: Tensor, *parts: Tensor) -> Tensor:
    """The sum, in place of the first part."""
    for part in parts:
        total += part
    return total


def entered(gamma: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """The sum, and ``activated`` of it."""
    x = added(*parts)
    return x, activated(gamma, x)


def enlarged(phases: Tensor, source: Tensor, place: int, time: int) -> Tensor:
    """A frame [B, C, 2H, 2W] from the ``phases`` of its pixels, plus repeated channels.

    ``phases`` [B, 4C, H+1, W+1]: for each row and column of a square of 2 x 2 pixels, see
    ``phase_weights``. ``source`` [B, D, H, W]: its channels, repeated, fill the squares of ``time``
    frames, of which this is number ``place`` (Wan2.2 ``DupUp3D``).
    """
    batch, dim, height, width = source.shape
    out = phases.shape[1] // 4
    if dim < out:
        source = source.repeat_interleave(out // dim, dim=1)
    every = source.shape[1] // out
    y = phases.new_empty(batch, 2 * height, 2 * width, out).permute(0, 3, 1, 2)
    for number, (row, column) in enumerate(product(range(2), repeat=2)):
        first = (4 * place + number) * every // (4 * time)
        phase = phases[:, number * out : (number + 1) * out, row:, column:]
        y[:, :, row::2, column::2] = phase[:, :, :height, :width] + source[:, first::every]
    return y


def phase_weights(weight: Tensor) -> Tensor:
    """A 3 x 3 convolution [O, I, 3, 3] of a frame enlarged by 2 as 2 x 2 ones of the frame itself.

    Two of three taps meet the same pixel, so their weights add up. Returns [4O, I, 2, 2] for the
    upper left, upper right, lower left and lower right pixel of each square; with a padding of 1
    they give ``phases``.
    """
    x = weight.float()
    for dim in (-1, -2):
        a, b, c = x.unbind(dim)
        x = torch.stack([torch.stack(pair, dim) for pair in ((a, b + c), (a + b, c))])
    return channels_last(x.flatten(0, 2).to(weight.dtype))


def taps(conv: nn.Conv3d, window: Sequence[Tensor], out: slice = slice(None), **how: Any) -> Frames:
    """What each frame of the window, the oldest first, adds to its last one's output.

    Missing frames are zero. A frame that has been used may leave the window.
    """
    weight = conv.weight[out]
    bias = None if conv.bias is None else conv.bias[out]
    for age in range(len(window), 0, -1):
        yield F.conv2d(window[-age], weight[:, :, -age], bias if age == 1 else None, **how)


def lay_out(conv: nn.Conv2d | nn.Conv3d) -> None:
    """Lay a convolution's weight out with its channels last and the taps in time apart."""
    weight = conv.weight.data
    if weight.ndim == 5:
        weight = weight.permute(2, 0, 3, 4, 1).contiguous().permute(1, 4, 0, 2, 3)
        conv.weight.data = weight
    else:
        conv.weight.data = channels_last(weight)


def alone(frames: Frames) -> Sums:
    """Frames as sums of one part."""
    return map(lambda frame: (frame,), frames)


def channels_last(x: Tensor) -> Tensor:
    """The same frames or 2-D weights with channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)
