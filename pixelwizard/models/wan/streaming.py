"""A transformer's blocks streamed from host memory: the next is copied while one computes.

Two buffers on the device, each of one block, take the weights in turns, so a whole forward
allocates nothing for them. With CUDA the host memory is pinned and the next block is copied on a
separate stream; on other devices the copy happens before the block is used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn


class BlockStream:
    """Iterates over equally shaped blocks of frozen weights, each on the device when it is due.

    A block that was yielded may be used until the next one is taken: its buffers are then refilled.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], device: torch.device, asynchronous: bool
    ) -> None:
        self.blocks = list(blocks)
        self.slots = [_buffers_for(self.blocks[0], device) for _ in range(min(2, len(blocks)))]
        self._copies = torch.cuda.Stream(device) if asynchronous else None
        if asynchronous:
            for block in self.blocks:
                for weight in block.parameters():
                    weight.data = weight.data.pin_memory()

    def __iter__(self) -> Iterator[nn.Module]:
        arrived = self._send(0)
        try:
            for index in range(len(self.blocks)):
                waiting = arrived
                if index + 1 < len(self.blocks):
                    arrived = self._send(index + 1)
                if waiting is not None:
                    torch.cuda.current_stream().wait_event(waiting)
                yield self.slots[index % 2]
        finally:  # after an error a copy may be under way into buffers that are freed
            if self._copies is not None:
                self._copies.synchronize()

    def _send(self, index: int) -> torch.cuda.Event | None:
        """Copy a block's weights into its buffers; the event after the copy, where it is awaited.

        What was issued before, the block that used these buffers included, comes first.
        """
        slot, block = self.slots[index % 2], self.blocks[index]
        pairs = zip(slot.parameters(), block.parameters(), strict=True)
        if self._copies is None:
            for target, source in pairs:
                target.data.copy_(source.data)
            return None
        self._copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copies):
            for target, source in pairs:
                target.data.copy_(source.data, non_blocking=True)
            return self._copies.record_event()


def _buffers_for(block: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a block whose weights are uninitialised memory on the device."""
    memo: dict[int, object] = {
        id(weight): nn.Parameter(torch.empty_like(weight, device=device), requires_grad=False)
        for weight in block.parameters()
    }
    buffers: nn.Module = copy.deepcopy(block, memo)
    return buffers
