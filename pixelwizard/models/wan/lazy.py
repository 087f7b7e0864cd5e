"""Weights that are computed as they are read: dequantised, or with LoRAs added.

They are computed in blocks of rows (the first axis), in float32, and rounded once into the wanted
type, so neither a whole network nor a whole weight is ever there twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Union

import torch
from torch import Tensor

VALUES = 1 << 22
"""How many values are computed together: 16 MB in float32."""


class LazyTensor:
    """A weight of a file that is computed when it is read.

    ``rows`` gives some rows of the first axis as float32 on the CPU. The blocks do not depend on
    what is asked for, so every reader gets the same bits: a whole network, or a rank's slice.
    """

    dtype = torch.float32

    def __init__(self, shape: Sequence[int], rows: Callable[[slice], Tensor]) -> None:
        self.shape = torch.Size(shape)
        self._rows = rows
        self._step = max(1, VALUES // max(1, math.prod(self.shape[1:])))

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def to(
        self, device: torch.device | str, dtype: torch.dtype, rows: slice = slice(None)
    ) -> Tensor:
        """The weight, or some neighbouring ``rows`` of it, computed."""
        start, stop, _ = rows.indices(len(self))
        count = max(0, stop - start)
        made = torch.empty((count, *self.shape[1:]), dtype=dtype, device=device)
        for first, block in self._blocks(start, stop):
            low, high = max(start, first), min(stop, first + len(block))
            made[low - start : high - start] = block[low - first : high - first]
        return made

    def __getitem__(self, rows: slice) -> Tensor:
        return self.to("cpu", torch.float32, rows)

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """The first row and the values of every block that overlaps start..stop."""
        for first in range(start - start % self._step, stop, self._step):
            yield first, self._rows(slice(first, min(first + self._step, len(self))))


Weight = Union[Tensor, LazyTensor]
"""A weight of a file, mapped or computed."""


def read(
    weight: Weight, device: torch.device | str, dtype: torch.dtype, rows: slice | None = None
) -> Tensor:
    """A weight on ``device`` in ``dtype``; some ``rows`` of it are a copy.

    A mapped one that is there already stays mapped.
    """
    if isinstance(weight, LazyTensor):
        return weight.to(device, dtype, rows or slice(None))
    weight = weight.detach()
    if rows is None:
        return weight.to(device, dtype)
    return weight[rows].to(device, dtype, copy=True)
