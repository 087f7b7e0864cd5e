"""Examples that other processes read, passed on through pipes.

Tensors would pass through shared memory, of which a container has 64 MB by default; a batch that
does not fit is lost, and the training waits for it for ever. A pipe costs 2.6 CPU seconds a GB.
"""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Loader:
    """The items of a dataset, read by ``workers`` processes, each ``ahead`` items ahead.

    Items stay as they are. The global random state is left alone. Raises RuntimeError for the
    next item where a worker was killed.
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
        waiting = iter(items)
        _READERS.listen()
        try:
            while True:
                with _READERS:
                    item = next(waiting)
                yield pickle.loads(item)
        except StopIteration:
            return
        except (ConnectionError, EOFError) as error:
            raise RuntimeError("a DataLoader worker is gone") from error


class _Readers:
    """torch's handler of SIGCHLD, which raises only while an item is waited for.

    torch's own raises for a killed worker wherever the program is, so that a metric or the import
    of a library fails in its place. An item that a killed worker has half written never comes, so
    that whoever waits next is told.
    """

    def __init__(self) -> None:
        self._torchs: Callable[[int, FrameType | None], Any] | None = None
        self._lost: RuntimeError | None = None
        self._waiting = False

    def listen(self) -> None:
        """Take the place of the handler that torch has installed; only the main thread has one."""
        found, thread = signal.getsignal(signal.SIGCHLD), threading.current_thread()
        if thread is threading.main_thread() and found is not self and callable(found):
            self._torchs = found
            signal.signal(signal.SIGCHLD, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        assert self._torchs is not None
        try:
            self._torchs(number, frame)
        except RuntimeError as error:
            if self._waiting:
                raise
            self._lost = error

    def __enter__(self) -> None:
        self._waiting, lost, self._lost = True, self._lost, None
        if lost is not None:
            self._waiting = False
            raise lost

    def __exit__(self, *_: object) -> None:
        self._waiting = False


_READERS = _Readers()
