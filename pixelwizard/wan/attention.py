"""Exact attention, on one rank or over several that share a sequence, and rotary positions.

Letters of shapes: B samples, L tokens, S keys, N heads, D channels of a head.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.geometry import cuts, part_sizes


def attention(query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor) -> Tensor:
    """Softmax attention of every query over all keys -> [B, L, N, D].

    Training on a CPU writes the softmax out: its backward is 1.4 to 1.7 times as fast as that of
    the fused kernel.
    """
    query, key, value = (t.transpose(1, 2) for t in (query_BLND, key_BSND, value_BSND))
    if query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        out = scores.softmax(-1) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2)


class Ulysses:
    """Attention over ranks that hold some of the tokens each (DeepSpeed-Ulysses, arXiv 2309.14509).

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
        """Room for queries, keys and values of own tokens: [ranks, L, 3, B, N / ranks, D]."""
        batch, length, channels = x_BLE.shape
        shape = (self.size, length, 3, batch, heads // self.size, channels // heads)
        return x_BLE.new_empty(shape, dtype=dtype)

    def pack(self, packed: Tensor, span: slice, part: int, x_BLND: Tensor) -> None:
        """Put queries (part 0), keys (1) or values (2) of some own tokens into their room."""
        packed[:, span, part] = x_BLND.unflatten(2, (self.size, -1)).permute(2, 1, 0, 3, 4)

    def attend(self, packed: Tensor, length: int) -> Tensor:
        """Attention of own tokens over all ``length`` of them -> [B, L, N, D]."""
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

    def _exchange(self, rows: Tensor, send: list[int], receive: list[int]) -> Tensor:
        """One all-to-all: ``send[r]`` rows go to rank r, ``receive[r]`` come from there."""
        out = rows.new_empty(sum(receive), *rows.shape[1:])
        dist.all_to_all_single(out, rows, receive, send, group=self.group)
        self.sent += rows[0].nbytes * (len(rows) - send[self.rank])
        return out


class Rotary:
    """Angles of the tokens of a (T, H, W) grid, put together for the tokens that are asked for.

    The pairs of channels are split over (frame, height, width) as c - 2 (c // 3), c // 3, c // 3
    with c = D/2; each axis has base 10000 (Wan2.2 ``rope_params``) and a small table of its own.
    ``own``: the tokens of this rank (None: all), counted from the first of them.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
        head_dim: int,
        device: torch.device,
        own: slice | None = None,
    ) -> None:
        self.grid = grid
        self.own = own or slice(0, grid[0] * grid[1] * grid[2])
        self.device = device
        third = head_dim // 2 // 3
        pairs = (head_dim // 2 - 2 * third, third, third)
        with torch.inference_mode(False):
            self.axes = [
                _axis_table(size, count).to(device) for size, count in zip(grid, pairs, strict=True)
            ]
        self._whole: Tensor | None = None

    def table(self, start: int, stop: int) -> Tensor:
        """cos and sin of the angles of tokens start..stop, float32 [2, stop - start, D/2].

        The table of all own tokens is kept: those who ask for it ask again in every block.
        """
        whole = (start, stop) == (0, self.own.stop - self.own.start)
        if whole and self._whole is not None:
            return self._whole
        with torch.inference_mode(False):  # a kept table must also serve a later backward
            token = torch.arange(start, stop, device=self.device) + self.own.start
            row = token // self.grid[2]
            places = (row // self.grid[1], row % self.grid[1], token % self.grid[2])
            parts = [axis[:, place] for axis, place in zip(self.axes, places, strict=True)]
            table = torch.cat(parts, dim=-1)
        if whole:
            self._whole = table
        return table


def _axis_table(size: int, pairs: int) -> Tensor:
    """cos and sin of one axis' angles, float32 [2, size, pairs]."""
    frequency = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angle = torch.outer(torch.arange(size, dtype=torch.float64), frequency)
    return torch.stack((angle.cos(), angle.sin())).float()


def rotate(x_BLND: Tensor, table_2LP: Tensor) -> Tensor:
    """Rotates each pair of adjacent channels of ``x`` by its token's angle, in ``x``'s dtype."""
    cos, sin = table_2LP[:, None, :, None, :].to(x_BLND.dtype)
    even, odd = x_BLND.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
