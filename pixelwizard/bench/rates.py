"""The peak rates of this machine's device, measured in seconds and saved for ``plan``."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from pixelwizard.io.files import write_text
from pixelwizard.io.process import usable_cores
from pixelwizard.planning.device import DeviceRates, stored

MEASURED_SECONDS = 0.4
"""How long each rate is looked for."""
FILE = 1 << 28
"""Bytes of a file of weights."""


@dataclass(frozen=True)
class Shapes:
    """Sizes at which a kernel reaches its rate; those of the full-size networks on a GPU."""

    dtype: torch.dtype
    tokens: int
    dim: int
    wide: int
    heads: int
    head_dim: int
    channels: int
    side: int
    copied: int


GPU = Shapes(torch.bfloat16, 16384, 3072, 14336, 24, 128, 512, 256, 1 << 29)
PROCESSOR = Shapes(torch.float32, 1024, 768, 3072, 8, 64, 128, 64, 1 << 26)


def measure_rates(device: torch.device, name: str) -> DeviceRates:
    """The rates of ``device``: bfloat16 kernels on a GPU, float32 ones on a processor."""
    shapes = GPU if device.type == "cuda" else PROCESSOR

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, device=device, dtype=shapes.dtype)

    tokens, side, channels = shapes.tokens, shapes.side, shapes.channels
    x, weight = random(tokens, shapes.dim), random(shapes.wide, shapes.dim)
    query, key, value = (random(1, shapes.heads, tokens, shapes.head_dim) for _ in range(3))
    image, kernel = random(1, channels, side, side), random(channels, channels, 3, 3)
    here = torch.empty(shapes.copied, dtype=torch.uint8, device=device)
    there = torch.empty_like(here)
    host = torch.empty(shapes.copied, dtype=torch.uint8, pin_memory=device.type == "cuda")
    seconds = {
        "matmul": fastest(lambda: F.linear(x, weight), device),
        "attention": fastest(lambda: F.scaled_dot_product_attention(query, key, value), device),
        "conv": fastest(lambda: F.conv2d(image, kernel, padding=1), device),
        "memory": fastest(lambda: there.copy_(here), device),
        "host": fastest(lambda: here.copy_(host, non_blocking=True), device),
    }
    flops = {
        "matmul": 2 * tokens * shapes.dim * shapes.wide,
        "attention": 4 * shapes.heads * tokens**2 * shapes.head_dim,
        "conv": 2 * 9 * channels**2 * side**2,
    }
    matmul, attention, conv = (_significant(n / seconds[k] / 1e12) for k, n in flops.items())
    memory = _significant(2 * shapes.copied / seconds["memory"] / 1e12)
    host_gbs = _significant(shapes.copied / seconds["host"] / 1e9)
    return DeviceRates(
        *(name, matmul, attention, conv, memory, host_gbs),
        loading_gbs=_significant(loading_gbs(device)),
        cores=max(1, usable_cores() // max(1, torch.cuda.device_count())),
    )


def loading_gbs(device: torch.device) -> float:
    """GB/s of a weights' file beside the stored rates, read from its drive and put on ``device``.

    Pages that the system keeps of the file are dropped first, where it does that.
    """
    folder = stored().parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        save_file({"weight": torch.randint(255, (FILE,), dtype=torch.uint8)}, file.name)
        with open(file.name, "rb") as written:
            os.fsync(written.fileno())
            if hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = now(device)
        with safe_open(file.name, framework="pt") as weights:
            weights.get_tensor("weight").to(device, copy=True)
        return FILE / (now(device) - started) / 1e9


def keep(rates: DeviceRates) -> None:
    """Write the rates where ``plan`` looks for those of this machine."""
    path = stored()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(rates), indent=1) + "\n")


def now(device: torch.device) -> float:
    """The time in seconds at which all that was asked of ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of many calls; others on the machine can only slow one down."""
    call()
    best, end = float("inf"), now(device) + MEASURED_SECONDS
    while (started := now(device)) < end:
        call()
        best = min(best, now(device) - started)
    return best


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
