"""The attention of T3-Video's weights: in each layer, near tokens and evenly spread ones.

Source: arXiv 2512.13492 and zhangzjn/T3-Video (``wan_video_dit.py``, Apache-2.0). The splits
repeat every five layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from torch import Tensor

from pixelwizard.config.schema import ConfigError, convert
from pixelwizard.models.attention.base import Attention, Grid, Place
from pixelwizard.models.attention.exact import TokenSets, in_sets, token_sets

SPLITS = ((21, 1, 1), (1, 17, 20), (1, 17, 6), (3, 4, 15), (7, 4, 8))
"""Into how many parts frames, rows and columns of tokens are split, by layer modulo five."""


class T3(Attention):
    """The mean of attention to a block of neighbours and to as many evenly spread tokens.

    With a split n of an axis of length A the block has A / n tokens in a row and the other set
    every n-th token. ``splits`` has three numbers per layer and repeats;
    each must divide its axis of the token grid. T3-Video's own are for 3840x2176 and 81
    frames.
    """

    def __init__(self, splits: Sequence[Sequence[int]] = SPLITS) -> None:
        given = convert(splits, list[list[int]], "attention.splits")
        self.splits = [tuple(split) for split in given]
        if not self.splits or any(len(s) != 3 or min(s) < 1 for s in self.splits):
            raise ConfigError(
                f"attention.splits={given} must be three whole numbers from 1 for each layer:"
                " frames, rows, columns"
            )

    def __call__(
        self, query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor, place: Place
    ) -> Tensor:
        split = self.splits[place.layer % len(self.splits)]
        check_divides(split, place.grid)

        def seen(tokens: Tensor) -> tuple[Tensor, Tensor]:
            return key_BSND.index_select(1, tokens), value_BSND.index_select(1, tokens)

        near, far = (
            in_sets(query_BLND, place.start, sets(place.grid, split, spread), seen)
            for spread in (False, True)
        )
        return (near + far) / 2

    def kind(self, place: Place) -> int:
        return place.layer % len(self.splits)


def check_divides(split: Sequence[int], grid: Grid) -> None:
    """Refuse a split that leaves a rest of the token grid; raises ConfigError."""
    if any(length % parts for length, parts in zip(grid, split, strict=True)):
        raise ConfigError(
            f"attention=t3 splits the tokens of a clip by {list(split)}, which does not divide its"
            f" grid of {list(grid)} frames, rows and columns; T3-Video's own sizes are"
            " resolution.width=3840 resolution.height=2176 resolution.frames=81"
        )


@lru_cache(maxsize=16)
def sets(grid: Grid, split: tuple[int, int, int], spread: bool) -> TokenSets:
    """The tokens of every block, or of every evenly spread set."""
    axes = [
        np.arange(length) % parts if spread else np.arange(length) // (length // parts)
        for length, parts in zip(grid, split, strict=True)
    ]
    _, rows, columns = split
    which = (axes[0][:, None, None] * rows + axes[1][:, None]) * columns + axes[2]
    order = np.argsort(which.ravel(), kind="stable")
    return token_sets(order.reshape(math.prod(split), -1))
