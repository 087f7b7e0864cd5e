"""One clip decoded by several processes: their communication.

``Peers`` are the processes of one clip. ``RowShard`` serves the layers of a decoder when
each process has some rows of every frame. A convolution reads one row above and one below, the
middle attention reads all rows, and everything else is pointwise. Exchanging rows before these
layers therefore gives the decode of whole frames, up to the rounding of the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pixelwizard.config.geometry import cuts, part_sizes


class Peers:
    """The processes that decode one clip together, the first of which writes; here only one."""

    rank, size = 0, 1

    @property
    def writes(self) -> bool:
        """Whether this process collects the frames."""
        return self.rank == 0

    def exchange(
        self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Sequence[int]], like: Tensor
    ) -> dict[int, Tensor]:
        """Send tensors to ranks, receive from ranks tensors of the given shapes; all ranks call it.

        ``like`` gives type and device, also where nothing is sent or received.
        """
        assert not outgoing and not incoming
        return {}

    def gather(self, x: Tensor) -> list[Tensor]:
        """The equally shaped tensors of all ranks, on every rank."""
        return [x]

    def collect(self, mine: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The tensors of the first ranks in their order, for the one that writes; else nothing.

        ``shapes`` are those of all tensors; a rank beyond them gives an empty one.
        """
        if self.writes:
            incoming = {rank: shape for rank, shape in enumerate(shapes) if rank}
            return [mine, *self.exchange({}, incoming, mine).values()]
        self.exchange({0: mine}, {}, mine)
        return []


class GroupPeers(Peers):
    """The processes of a process group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def exchange(
        self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Sequence[int]], like: Tensor
    ) -> dict[int, Tensor]:
        sent = [like.new_empty(0), *(outgoing[rank].flatten() for rank in sorted(outgoing))]
        expected = [math.prod(incoming.get(rank, (0,))) for rank in range(self.size)]
        received = like.new_empty(sum(expected))
        dist.all_to_all_single(
            received,
            torch.cat(sent),
            output_split_sizes=expected,
            input_split_sizes=[
                outgoing[rank].numel() if rank in outgoing else 0 for rank in range(self.size)
            ],
            group=self.group,
        )
        parts = received.split(expected)
        return {rank: parts[rank].view(*shape) for rank, shape in sorted(incoming.items())}

    def gather(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return parts


ALONE = Peers()


class RowShard:
    """The latent rows ``own`` of one rank, and what its layers need of the other ranks' rows."""

    def __init__(self, peers: Peers, height: int) -> None:
        self.peers = peers
        self.counts = part_sizes(height, peers.size)
        self.own = slice(*cuts(height, peers.size)[peers.rank : peers.rank + 2])

    def with_halo(self, frame: Tensor) -> Tensor:
        """``[B, C, h, W]`` with the row above and the row below; zeros beyond the whole frame."""
        first, last, rank = frame[:, :, :1], frame[:, :, -1:], self.peers.rank
        edges = {rank - 1: first, rank + 1: last}
        outgoing = {other: edge for other, edge in edges.items() if 0 <= other < self.peers.size}
        incoming = {other: edge.shape for other, edge in outgoing.items()}
        rows = self.peers.exchange(outgoing, incoming, frame)
        nothing = torch.zeros_like(first)
        above, below = rows.get(rank - 1, nothing), rows.get(rank + 1, nothing)
        return torch.cat([above, frame, below], dim=2)

    def whole(self, x: Tensor) -> Tensor:
        """``[B, C, h, W]`` of latent rows -> ``[B, C, H, W]``."""
        most = max(self.counts)
        padded = torch.nn.functional.pad(x, (0, 0, 0, most - x.shape[2]))
        parts = self.peers.gather(padded)
        return torch.cat(
            [part[:, :, :count] for part, count in zip(parts, self.counts, strict=True)], dim=2
        )
