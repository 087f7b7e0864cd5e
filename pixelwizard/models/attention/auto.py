"""Exact attention by the kernel that is fastest on this device at this length.

The available kernels run once on the first queries of a number of keys. The choice is stored in a
file, so later runs make the same one. Training computes like ``exact``.

Letters of shapes: B samples, L queries, S keys, N heads, D channels of a head.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
    sdpa_kernel,
)

from pixelwizard.io.files import cache_folder, read_json, write_json
from pixelwizard.models.attention.base import Attention, Place
from pixelwizard.models.attention.exact import attention

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [B, L, N, D], keys and values [B, S, N, D] -> [B, L, N, D]."""
ROUNDS = 3


def fused(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One backend of torch's attention, or a RuntimeError."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        ).transpose(1, 2)


def flash(version: str | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """FlashAttention of a version that is installed besides torch, or torch's own (None)."""
    if current_flash_attention_impl() != version:
        if version is None:
            restore_flash_attention_impl()
        else:
            activate_flash_attention_impl(version)
    return fused(SDPBackend.FLASH_ATTENTION, query, key, value)


KERNELS: dict[str, dict[str, Kernel]] = {
    "cuda": {
        "cudnn": partial(fused, SDPBackend.CUDNN_ATTENTION),
        "flash2": partial(flash, None),
        "flash3": partial(flash, "FA3"),
        "flash4": partial(flash, "FA4"),
        "efficient": partial(fused, SDPBackend.EFFICIENT_ATTENTION),
    },
    "cpu": {"flash": partial(fused, SDPBackend.FLASH_ATTENTION), "rows": attention},
}
"""What is tried, by the type of the device; elsewhere torch chooses."""


class Auto(Attention):
    """All tokens see all tokens."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def __call__(
        self, query_BLND: Tensor, key_BSND: Tensor, value_BSND: Tensor, place: Place
    ) -> Tensor:
        inputs = query_BLND, key_BSND, value_BSND
        kernels = KERNELS.get(query_BLND.device.type)
        if kernels is None or (torch.is_grad_enabled() and query_BLND.requires_grad):
            return attention(*inputs)
        self.kernel = self._pinned(kernels, *inputs)
        return kernels[self.kernel](*inputs) if self.kernel else attention(*inputs)

    def choice(
        self, device: torch.device, dtype: torch.dtype, keys_BSND: tuple[int, ...]
    ) -> str | None:
        return _kept().get(_case(device, dtype, keys_BSND), "timed at its first call")

    def _pinned(
        self, kernels: dict[str, Kernel], query: Tensor, key: Tensor, value: Tensor
    ) -> str | None:
        """The kernel for this number of keys on this device, timed where it is not known yet."""
        case = _case(key.device, key.dtype, key.shape)
        if case not in self._known:
            kept = _kept()
            if kept.get(case) not in kernels:
                times = dict(_timed(kernels, query, key, value))
                kept[case] = min(times, key=times.__getitem__, default=None)
                choices().parent.mkdir(parents=True, exist_ok=True)
                write_json(choices(), kept)
            self._known[case] = kept[case]
        return self._known[case]


def choices() -> Path:
    """The file with the kernel of every case, which may be deleted at any time."""
    return cache_folder() / "attention.json"


def _case(device: torch.device, dtype: torch.dtype, keys_BSND: Sequence[int]) -> str:
    """All that a choice depends on, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}, {dtype}, {'x'.join(map(str, keys_BSND))}"


def _kept() -> dict[str, str | None]:
    try:
        kept = read_json(choices())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _timed(
    kernels: dict[str, Kernel], query: Tensor, key: Tensor, value: Tensor
) -> Iterator[tuple[str, float]]:
    """The fastest seconds of every kernel that runs; the others raise."""
    for name, kernel in kernels.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield name, min(_seconds(kernel, query, key, value) for _ in range(1 + ROUNDS))
            except (RuntimeError, ImportError, ValueError):
                continue


def _seconds(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> float:
    started = _now(key)
    kernel(query, key, value)
    return _now(key) - started


def _now(like: Tensor) -> float:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter()
