"""Rotary positions of the tokens of a latent grid (Wan2.2 ``rope_params``)."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.models.attention.base import Grid


class Rotary:
    """Angles of the tokens of a (T, H, W) grid, put together for the tokens that are asked for.

    The pairs of channels are split over (frame, height, width) as c - 2 (c // 3), c // 3, c // 3
    with c = D/2; each axis has base 10000 (Wan2.2 ``rope_params``) and its own small table.
    ``own``: the tokens of this rank (None: all), counted from the first of them. ``kept``: those of
    all own tokens are put together once, as every block asks for them.
    """

    def __init__(
        self,
        grid: Grid,
        head_dim: int,
        device: torch.device,
        own: slice | None = None,
        kept: bool = True,
    ) -> None:
        self.grid, self.kept = grid, kept
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
        """cos and sin of the angles of tokens start..stop, float32 [stop - start, D/2, 2]."""
        if not self.kept:
            return self._together(start, stop)
        if self._whole is None:
            self._whole = self._together(0, self.own.stop - self.own.start)
        return self._whole[start:stop]

    def _together(self, start: int, stop: int) -> Tensor:
        first = self.own.start
        with torch.inference_mode(False):  # a kept table must also serve a later backward
            token = torch.arange(first + start, first + stop, device=self.device)
            row = token // self.grid[2]
            places = (row // self.grid[1], row % self.grid[1], token % self.grid[2])
            parts = [axis[place] for axis, place in zip(self.axes, places, strict=True)]
            return torch.cat(parts, dim=1)


def _axis_table(size: int, pairs: int) -> Tensor:
    """cos and sin of one axis' angles, float32 [size, pairs, 2]."""
    frequency = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angle = torch.outer(torch.arange(size, dtype=torch.float64), frequency)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()
