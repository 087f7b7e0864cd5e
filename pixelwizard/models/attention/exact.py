"""Softmax attention of every query over all keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.models.attention.base import Attention, Place

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
