"""Softmax attention of every query over all keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.models.attention.base import Attention, Place


class Exact(Attention):
    """All tokens see all tokens."""

    def __call__(
        self, query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor, place: Place
    ) -> Tensor:
        return attention(query_BLND, key_BSND, value_BSND)


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
