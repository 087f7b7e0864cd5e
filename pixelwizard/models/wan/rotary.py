"""Rotary position embedding.

Letters of shapes: B samples, L tokens, N heads, D channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Rotary:
    """Angles of the tokens of a (T, H, W) grid, put together for the tokens that are asked for.

    The pairs of channels are split over (frame, height, width) as c - 2 (c // 3), c // 3, c // 3
    with c = D/2; each axis has base 10000 (Wan2.2 ``rope_params``) and its own small table.
    ``own``: the tokens of this rank (None: all), counted from the first of them.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        head_dim: int,
        device: torch.device,
        own: slice | None = None,
    ) -> None:
        self.grid = grid
        self.own = own or slice(0, grid[0] * grid[1] * grid[2])
        self.device = device
        third = head_dim // 2 // 3
        pairs = (head_dim // 2 - 2 * third, third, third)
        with torch.inference_mode(False):
            self.axes = [
                _axis_table(size, count).to(device) for size, count in zip(grid, pairs, strict=True)
            ]
        self._whole: Tensor | None = None

    def table(self, start: int, stop: int) -> Tensor:
        """cos and sin of the angles of tokens start..stop, float32 [2, stop - start, D/2].

        The table of all own tokens is kept: those who ask for it ask again in every block.
        """
        whole = (start, stop) == (0, self.own.stop - self.own.start)
        if whole and self._whole is not None:
            return self._whole
        with torch.inference_mode(False):  # a kept table must also serve a later backward
            token = torch.arange(start, stop, device=self.device) + self.own.start
            row = token // self.grid[2]
            places = (row // self.grid[1], row % self.grid[1], token % self.grid[2])
            parts = [axis[:, place] for axis, place in zip(self.axes, places, strict=True)]
            table = torch.cat(parts, dim=-1)
        if whole:
            self._whole = table
        return table


def _axis_table(size: int, pairs: int) -> Tensor:
    """cos and sin of one axis' angles, float32 [2, size, pairs]."""
    frequency = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angle = torch.outer(torch.arange(size, dtype=torch.float64), frequency)
    return torch.stack((angle.cos(), angle.sin())).float()


def rotate(x_BLND: Tensor, table_2LP: Tensor) -> Tensor:
    """Rotates each pair of adjacent channels of ``x`` by its token's angle, in ``x``'s dtype."""
    cos, sin = table_2LP[:, None, :, None, :].to(x_BLND.dtype)
    even, odd = x_BLND.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
