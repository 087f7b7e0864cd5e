"""The base class of self-attentions.

Letters of shapes: B samples, L queries, S keys, N heads, D channels of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Place:
    """The place of an attention: the token grid (T, H, W), the layer from 0, the first query.

    Keys and values are those of all T * H * W tokens, frame by frame and row by row; queries are
    those of tokens ``start``, ``start + 1``, ...: all, or a chunk of them. Ranks that share a
    sequence have all tokens here, and some of the heads; where memory is tight there is one head.
    ``sigma`` is the start of the step; None in training, where the samples of a batch differ in it.
    """

    grid: Grid
    layer: int
    start: int = 0
    sigma: float | None = None


class Attention(ABC):
    """The self-attention of every layer of a transformer; it has no weights.

    ``kernel`` is the name of the kernel that ran last, if it had a choice.
    """

    kernel: str | None = None

    @abstractmethod
    def __call__(
        self, query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor, place: Place
    ) -> Tensor:
        """-> [B, L, N, D]; queries and keys are normed and rotated.

        A token's result must not depend on the chunk that it is in.
        """

    def choice(
        self, device: torch.device, dtype: torch.dtype, keys_BSND: tuple[int, ...]
    ) -> str | None:
        """The kernel for keys of a shape, or a description until it is known; None: no choice."""
        return None

    def kind(self, place: Place) -> Hashable:
        """Equal for layers and steps that cost the same: a plan traces one of each kind."""
        return None
