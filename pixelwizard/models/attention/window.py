"""Windowed attention over frames, rows and columns; the windows of odd layers are shifted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.config.geometry import cuts
from pixelwizard.config.schema import ConfigError, check_range, convert
from pixelwizard.models.attention.base import Attention, Grid, Place
from pixelwizard.models.attention.exact import TokenSets, attention, in_sets, token_sets


class Window(Attention):
    """A token attends to its window, which dense attention computes; no special kernel is needed.

    An axis is cut into the fewest even parts of at most ``size`` (frames, rows, columns of tokens;
    0: the whole axis); parts may differ by a token, and every token is in exactly one window.
    Odd layers cut in the middle of those parts instead, so that borders are at other places
    (``shift=false``: they are not). A window that covers the grid is exact attention.

    Also exact: the ``dense_layers``, counted from 0, and steps that start above the sigma
    ``dense_above`` (1: none; 0.99: the first step of most schedules). A training has no steps.

    ``anchor``: rows and columns of a coarse grid, best that of the anchor's tokens. All windows
    also attend to the mean keys and values of its cells in every frame, so their queries have a
    coarse view of the rest.
    """

    def __init__(
        self,
        size: Sequence[int] = (0, 24, 24),
        shift: bool = True,
        dense_layers: Sequence[int] = (),
        dense_above: float = 1.0,
        anchor: Sequence[int] = (),
    ) -> None:
        self.size = _whole_numbers("attention.size", size, (3,), 0)
        self.shift = convert(shift, bool, "attention.shift")
        self.dense_layers = _whole_numbers("attention.dense_layers", dense_layers, (), 0)
        self.dense_above = convert(dense_above, float, "attention.dense_above")
        check_range("attention.dense_above", self.dense_above, 0.0, 1.0)
        self.anchor = _whole_numbers("attention.anchor", anchor, (0, 2), 1)

    def __call__(
        self, query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor, place: Place
    ) -> Tensor:
        dense, shifted = self.kind(place)
        size = (0, 0, 0) if dense else self.size
        found = windows(place.grid, size, shifted, query_BLND.device)
        if len(found) == 1:
            return attention(query_BLND, key_BSND, value_BSND)
        pairs = [(t, self._coarse(t, place.grid)) for t in (key_BSND, value_BSND)]

        def seen(tokens: Tensor) -> tuple[Tensor, ...]:
            return tuple(_rows(whole, tokens, coarse) for whole, coarse in pairs)

        return in_sets(query_BLND, place.start, found, seen)

    def kind(self, place: Place) -> tuple[bool, bool]:
        """Whether a layer is dense in a step, and whether its windows are shifted."""
        early = place.sigma is not None and place.sigma > self.dense_above
        return early or place.layer in self.dense_layers, self.shift and place.layer % 2 == 1

    def _coarse(self, x_BSND: Tensor, grid: Grid) -> Tensor | None:
        """The means over the cells of the anchor's grid, [B, T * rows * columns, N, D], if any."""
        if not self.anchor:
            return None
        frames, height, width = grid
        rows, columns = min(self.anchor[0], height), min(self.anchor[1], width)
        flat = x_BSND.flatten(2).unflatten(1, grid).flatten(0, 1).permute(0, 3, 1, 2)
        means = F.adaptive_avg_pool2d(flat, (rows, columns)).flatten(2).transpose(1, 2)
        return means.reshape(len(x_BSND), frames * rows * columns, *x_BSND.shape[2:])


def _rows(whole_BSND: Tensor, tokens: Tensor, coarse_BSND: Tensor | None) -> Tensor:
    """Some tokens of the whole, and the coarse ones."""
    rows = whole_BSND.index_select(1, tokens)
    return rows if coarse_BSND is None else torch.cat((rows, coarse_BSND), dim=1)


@lru_cache(maxsize=8)
def windows(grid: Grid, size: Sequence[int], shifted: bool, device: torch.device) -> TokenSets:
    """Every window's tokens."""
    tokens = np.arange(math.prod(grid)).reshape(grid)
    axes = [_parts(*axis, shifted) for axis in zip(grid, size, strict=True)]
    return token_sets((tokens[place].ravel() for place in product(*axes)), device)


def _parts(length: int, size: int, shifted: bool) -> list[slice]:
    """The parts of one axis."""
    borders = cuts(length, -(-length // (size or length)))
    if shifted and len(borders) > 2:
        middles = [(low + high) // 2 for low, high in zip(borders, borders[1:], strict=False)]
        borders = [0, *middles, length]
    return [slice(low, high) for low, high in zip(borders, borders[1:], strict=False) if low < high]


def _whole_numbers(
    key: str, values: Sequence[int], lengths: Sequence[int], low: int
) -> tuple[int, ...]:
    """A list of whole numbers from ``low`` on; ``lengths``: how many there may be (none: any)."""
    numbers = convert(values, list[int], key)
    if lengths and len(numbers) not in lengths:
        kinds = {3: "three numbers: frames, rows, columns", 2: "two numbers: rows, columns"}
        raise ConfigError(f"{key}={numbers} must be {kinds[lengths[-1]]}")
    for number in numbers:
        check_range(key, number, low)
    return tuple(numbers)
