"""Weights in one flat buffer of host memory, and a transformer's blocks streamed from there.

Two buffers on the device, each of one block, take the weights in turns, so a whole forward
allocates nothing for them. A block is one copy. With CUDA the host memory is registered at its
exact size (torch's pinned allocator would round every tensor up to a power of two), and the next
block is copied on a separate stream; on other devices the copy happens before the block is used.
"""

from __future__ import annotations

import copy
import math
import mmap
import weakref
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

ALIGNMENT = 256
"""Bytes to whose multiples every tensor begins, as memory of CUDA does."""
Module = TypeVar("Module", bound=nn.Module)


class _Place(NamedTuple):
    """Where a weight lies in a flat buffer."""

    start: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize

    def of(self, flat: Tensor) -> Tensor:
        return flat[self.start : self.stop].view(self.dtype).as_strided(self.shape, self.stride)


def packed_bytes(module: nn.Module) -> int:
    """The bytes of a module's flat buffer: its weights, each begun at a multiple of ALIGNMENT."""
    return _size(_places(module))


class Packed:
    """The weights of a module as views of one flat buffer where they are, uint8 [packed_bytes].

    ``pinned`` registers the buffer with CUDA for as long as this object lives. Raises ValueError
    where the system refuses to lock so much memory.
    """

    def __init__(self, module: nn.Module, pinned: bool) -> None:
        self.module, self.places = module, _places(module)
        devices = (weight.device for weight in module.parameters())
        self.flat = _room(_size(self.places), next(devices, torch.device("cpu")))
        for weight, place in zip(module.parameters(), self.places, strict=True):
            own = place.of(self.flat)
            own.copy_(weight.data)
            weight.data = own
        if pinned:
            _register(self.flat)
            weakref.finalize(self, _unregister, self.flat)


def viewing(module: Module, flat: Tensor) -> Module:
    """A copy of a module whose weights are views of a flat buffer on any device."""
    pairs = zip(module.parameters(), _places(module), strict=True)
    memo: dict[int, object] = {
        id(weight): nn.Parameter(place.of(flat), requires_grad=False) for weight, place in pairs
    }
    return copy.deepcopy(module, memo)


class BlockStream:
    """Iterates over equally shaped blocks of frozen weights, each on the device when it is due.

    A block that was yielded may be used until the next one is taken: its buffer is then refilled.
    Raises ValueError if the blocks differ.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], device: torch.device, asynchronous: bool
    ) -> None:
        self.packed = [Packed(block, pinned=asynchronous) for block in blocks]
        if any(one.places != self.packed[0].places for one in self.packed):
            raise ValueError(
                "blocks of different weights cannot pass from host memory: use memory=resident"
            )
        size = len(self.packed[0].flat)
        self.buffers = [_empty(size, device) for _ in self.packed[:2]]
        self.slots = [viewing(blocks[0], buffer) for buffer in self.buffers]
        self._copies = torch.cuda.Stream(device) if asynchronous else None

    def __iter__(self) -> Iterator[nn.Module]:
        arrived = self._send(0)
        try:
            for index in range(len(self.packed)):
                waiting = arrived
                if index + 1 < len(self.packed):
                    arrived = self._send(index + 1)
                if waiting is not None:
                    torch.cuda.current_stream().wait_event(waiting)
                yield self.slots[index % 2]
        finally:  # after an error a copy may be under way into buffers that are freed
            if self._copies is not None:
                self._copies.synchronize()

    def _send(self, index: int) -> torch.cuda.Event | None:
        """Copy a block's weights into its buffer; the event after the copy, where it is awaited.

        What was issued before, the block that used this buffer included, comes first.
        """
        target, source = self.buffers[index % 2], self.packed[index].flat
        if self._copies is None:
            target.copy_(source)
            return None
        self._copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            return self._copies.record_event()


def _places(module: nn.Module) -> list[_Place]:
    """Of every parameter, in order; its strides stay as they are where it is dense."""
    places: list[_Place] = []
    stop = 0
    for weight in module.parameters():
        stride = torch.empty_like(weight, device="meta").stride()
        places.append(_Place(_aligned(stop), weight.shape, stride, weight.dtype))
        stop = places[-1].stop
    return places


def _size(places: Sequence[_Place]) -> int:
    return _aligned(places[-1].stop) if places else 0


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _empty(size: int, device: torch.device) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=device)


def _room(size: int, device: torch.device) -> Tensor:
    """A flat buffer; in host memory it has its pages for itself, so that they can be registered."""
    if device.type != "cpu":
        return _empty(size, device)
    room = _empty(size + mmap.PAGESIZE, device)
    start = -room.data_ptr() % mmap.PAGESIZE
    return room[start : start + size]


def _register(flat: Tensor) -> None:
    error = int(torch.cuda.cudart().cudaHostRegister(flat.data_ptr(), flat.nbytes, 0))
    if error:
        raise ValueError(
            f"CUDA could not lock {flat.nbytes} bytes of host memory (error {error}):"
            " use memory=resident, or allow this process to lock more"
        )


def _unregister(flat: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(flat.data_ptr())
