"""Examples that other processes read, passed on through pipes.

Tensors would pass through shared memory, of which a container has 64 MB by default; a batch that
does not fit is lost, and the training waits for it for ever. A pipe costs 2.6 CPU seconds a GB.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Loader:
    """The items of a dataset, read by ``workers`` processes, each ``ahead`` items ahead.

    Items stay as they are. The global random state is left alone. Raises RuntimeError where a
    worker was killed.
    """

    dataset: Any
    workers: int = 0
    ahead: int = 2

    def __iter__(self) -> Iterator[Any]:
        own = torch.Generator()
        if self.workers == 0:
            yield from DataLoader(self.dataset, batch_size=None, generator=own)
            return
        items = DataLoader(
            self.dataset,
            batch_size=None,
            generator=own,
            num_workers=self.workers,
            prefetch_factor=self.ahead,
            collate_fn=pickle.dumps,
        )
        try:
            yield from map(pickle.loads, items)
        except (ConnectionError, EOFError) as error:
            raise RuntimeError("a DataLoader worker is gone") from error
