"""Softmax attention of every query over all keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from pixelwizard.models.attention.base import Attention, Place

TokenSets = Sequence[tuple[np.ndarray, Tensor]]
"""Sets of tokens, int64 in rising order: on the host, and on some device."""
ROWS = 256
"""Queries whose scores a CPU keeps at a time, at least."""
SCORES = 2**19
"""How many scores a CPU keeps at a time, unless those of ``ROWS`` are more."""


class Exact(Attention):
    """All tokens see all tokens."""

    def __call__(
        self, query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor, place: Place
    ) -> Tensor:
        return attention(query_BLND, key_BSND, value_BSND)


def attention(query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor) -> Tensor:
    """Softmax attention of every query over all keys -> [B, L, N, D].

    A CPU writes the softmax out where that is faster: for training (the backward takes 0.6 to 0.7
    of the fused kernel's time) and, some rows at a time, for long sequences in bfloat16 (0.5 to
    0.6 of its time; a forward then differs by 4e-4 of its largest value).
    """
    on_cpu = query_BLND.device.type == "cpu"
    if on_cpu and not torch.is_grad_enabled() and _long_bfloat16(query_BLND, key_BSND):
        return _by_rows(query_BLND, key_BSND, value_BSND)
    query, key, value = (t.transpose(1, 2) for t in (query_BLND, key_BSND, value_BSND))
    if on_cpu and torch.is_grad_enabled() and query.requires_grad:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        out = scores.softmax(-1) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2)


def token_sets(sets: Iterable[np.ndarray], device: Device = "cpu") -> TokenSets:
    """Sets of tokens that are kept."""
    with torch.inference_mode(False):  # they must also serve a later backward
        return [(tokens, torch.from_numpy(tokens).to(device)) for tokens in sets]


def in_sets(
    query_BLND: Tensor,
    start: int,
    sets: TokenSets,
    seen: Callable[[Tensor], tuple[Tensor, ...]],
) -> Tensor:
    """Softmax attention inside sets of tokens -> [B, L, N, D], queries from token ``start`` on.

    ``seen``: the keys and values that the queries of a set see, given its tokens on the device.
    """
    out, span = torch.empty_like(query_BLND), (start, start + query_BLND.shape[1])
    for tokens, placed in sets:
        first, last = np.searchsorted(tokens, span)
        if first < last:
            whole = placed.to(query_BLND.device)
            mine = whole[first:last] - start
            found = attention(query_BLND.index_select(1, mine), *seen(whole))
            out.index_copy_(1, mine, found)
    return out


def _long_bfloat16(query: Tensor, key: Tensor) -> bool:
    return query.dtype == torch.bfloat16 and min(query.shape[1], key.shape[1]) >= ROWS


def _by_rows(query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor) -> Tensor:
    """Every head of every sample, as many queries at a time as leave their scores in the cache."""
    out = torch.empty_like(query_BLND)
    scale, keys = query_BLND.shape[-1] ** -0.5, key_BSND.shape[1]
    rows = max(ROWS, SCORES // keys)
    spaces = [out.new_empty(rows, keys) for _ in range(2)]
    for sample in range(query_BLND.shape[0]):
        for head in range(query_BLND.shape[2]):
            key, value = key_BSND[sample, :, head].t(), value_BSND[sample, :, head]
            parts = (whole[sample, :, head].split(rows) for whole in (query_BLND, out))
            for query, result in zip(*parts, strict=True):
                scores, weights = (space[: len(query)] for space in spaces)
                torch.addmm(scores, query, key, beta=0, alpha=scale, out=scores)
                torch.softmax(scores, -1, out=weights)
                result.copy_(weights @ value)
    return out
