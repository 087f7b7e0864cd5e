"""Exact attention and rotary positions.

Letters of shapes: B samples, L tokens, S keys, N heads, D channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor) -> Tensor:
    """Softmax attention of every query over all keys -> [B, L, N, D].

    Training on a CPU writes the softmax out: its backward is 1.4 to 1.7 times as fast as that of
    the fused kernel.
    """
    query, key, value = (t.transpose(1, 2) for t in (query_BLND, key_BSND, value_BSND))
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        out = scores.softmax(-1) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2)


def rotary_table(grid: tuple[int, int, int], head_dim: int) -> Tensor:
    """cos and sin of every token's angles, float32 [2, L, D/2].

    The pairs of channels are split over (frame, height, width) as c - 2 (c // 3), c // 3, c // 3
    with c = D/2; each axis has base 10000 (Wan2.2 ``rope_params``).
    """
    third = head_dim // 2 // 3
    pairs = (head_dim // 2 - 2 * third, third, third)
    angles = []
    for axis, (size, count) in enumerate(zip(grid, pairs, strict=True)):
        frequency = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
        angle = torch.outer(torch.arange(size, dtype=torch.float64), frequency)
        shape = [1, 1, 1, count]
        shape[axis] = size
        angles.append(angle.view(shape).expand(*grid, count))
    angle = torch.cat(angles, dim=-1).flatten(0, 2)
    return torch.stack((angle.cos(), angle.sin())).float()


def rotate(x_BLND: Tensor, table_2LP: Tensor) -> Tensor:
    """Rotates each pair of adjacent channels of ``x`` by its token's angle, in ``x``'s dtype."""
    cos, sin = table_2LP[:, None, :, None, :].to(x_BLND.dtype)
    even, odd = x_BLND.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
