"""What ranks send each other: the passes of guidance, the tokens of a sequence, parts of a clip.

``CFGParallel`` and ``Ulysses`` serve the transformers, ``Peers`` and ``RowShard`` the decode.
Letters of shapes: B samples, L own tokens, N heads, D channels of a head, E = N x D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pixelwizard.config.geometry import cuts, part_sizes


class CFGParallel:
    """Two ranks that run one of the two passes each; ``sent`` counts the bytes of this one."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.index = group, group.rank()
        self.sent = 0

    def both(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions of the first and of the second half, from the one made here."""
        first, second = torch.empty_like(own), torch.empty_like(own)
        dist.all_gather([first, second], own.contiguous(), self.group)
        self.sent += own.nbytes
        return first, second


Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries [B, L, N, D], keys [B, S, N, D], values [B, S, N, D]) -> [B, L, N, D]."""


class Ulysses:
    """Attention over ranks that each hold some of the tokens (DeepSpeed-Ulysses, arXiv 2309.14509).

    Between attentions a rank has its own tokens with all heads, inside one all tokens with its own
    heads. Parts may differ by a token, so nothing is padded. ``sent`` counts the bytes that left
    this rank for an attention.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.size, self.rank = group, group.size(), group.rank()
        self.sent = 0

    def own(self, length: int) -> slice:
        """The tokens of this rank in a sequence."""
        return slice(*cuts(length, self.size)[self.rank : self.rank + 2])

    def packed(self, x_BLE: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
        """A buffer for queries, keys and values of own tokens: [ranks, L, 3, B, N / ranks, D]."""
        batch, length, channels = x_BLE.shape
        shape = (self.size, length, 3, batch, heads // self.size, channels // heads)
        return x_BLE.new_empty(shape, dtype=dtype)

    def pack(self, packed: Tensor, span: slice, part: int, x_BLND: Tensor) -> None:
        """Put queries (part 0), keys (1) or values (2) of some own tokens into the buffer."""
        packed[:, span, part] = x_BLND.unflatten(2, (self.size, -1)).permute(2, 1, 0, 3, 4)

    def attend(self, packed: Tensor, length: int, attention: Attention) -> Tensor:
        """``attention`` of own tokens over all ``length`` of them -> [B, L, N, D]."""
        counts = part_sizes(length, self.size)
        rows = self._exchange(packed.flatten(0, 1), [packed.shape[1]] * self.size, counts)
        query, key, value = rows.unbind(1)
        out_LBND = attention(*(t.transpose(0, 1) for t in (query, key, value))).transpose(0, 1)
        back = self._exchange(out_LBND.contiguous(), counts, [packed.shape[1]] * self.size)
        return back.unflatten(0, (self.size, -1)).permute(2, 1, 0, 3, 4).flatten(2, 3)

    def gather(self, x_BLE: Tensor, length: int) -> Tensor:
        """All tokens from the own ones of every rank."""
        counts = part_sizes(length, self.size)
        sent = x_BLE.new_zeros(len(x_BLE), max(counts), x_BLE.shape[2])
        sent[:, : x_BLE.shape[1]] = x_BLE
        rooms = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(rooms, sent, self.group)
        return torch.cat([room[:, :n] for room, n in zip(rooms, counts, strict=True)], dim=1)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all ranks' tensors, on every rank."""
        dist.all_reduce(x, group=self.group)
        return x

    def _exchange(self, rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
        """One all-to-all: ``send[r]`` rows go to rank r, ``receive[r]`` come from there."""
        out = rows.new_empty(sum(receive), *rows.shape[1:])
        dist.all_to_all_single(out, rows, receive, send, group=self.group)
        self.sent += rows[0].nbytes * (len(rows) - send[self.rank])
        return out


class Peers:
    """The processes of a group that decode one clip together, the first of which writes."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    @property
    def writes(self) -> bool:
        """Whether this process collects the frames."""
        return self.rank == 0

    def rows(self, height: int) -> RowShard:
        """The latent rows of this process, of ``height``."""
        return RowShard(self, height)

    def exchange(
        self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Sequence[int]], like: Tensor
    ) -> dict[int, Tensor]:
        """Send tensors to ranks, receive from ranks tensors of the given shapes; all ranks call it.

        ``like`` gives type and device, also where nothing is sent or received.
        """
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
        """The equally shaped tensors of all ranks, on every rank."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return parts

    def collect(self, mine: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The tensors of the first ranks in their order, for the one that writes; else nothing.

        ``shapes`` are those of all tensors; a rank beyond them gives an empty one.
        """
        if self.writes:
            incoming = {rank: shape for rank, shape in enumerate(shapes) if rank}
            return [mine, *self.exchange({}, incoming, mine).values()]
        self.exchange({0: mine}, {}, mine)
        return []


class RowShard:
    """The latent rows ``own`` of one rank, and what its layers need of the other ranks' rows.

    A convolution reads one row above and one below, the middle attention reads all rows, and
    everything else is pointwise. Exchanging rows before these layers gives the decode of whole
    frames, up to the rounding of the kernels.
    """

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
        above, below = (
            rows.get(other, nothing).contiguous(memory_format=torch.channels_last)
            for other in (rank - 1, rank + 1)
        )
        return torch.cat([above, frame, below], dim=2)

    def gather(self, x: Tensor) -> Tensor:
        """``[B, C, h, W]`` of latent rows -> ``[B, C, H, W]``."""
        most = max(self.counts)
        padded = torch.nn.functional.pad(x, (0, 0, 0, most - x.shape[2]))
        parts = self.peers.gather(padded)
        return torch.cat(
            [part[:, :, :count] for part, count in zip(parts, self.counts, strict=True)], dim=2
        )
