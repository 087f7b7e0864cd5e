"""The data type that ``decode.dtype=auto`` means on this machine. No torch unless it is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, Union

from pixelwizard.config.generate import SamplingSettings
from pixelwizard.config.tasks import BenchConfig

AMPERE = (8, 0)
Config = TypeVar("Config", bound=Union[SamplingSettings, BenchConfig])


def settled(config: Config, here: bool = True) -> Config:
    """``decode.dtype=auto`` replaced: bfloat16 where that is fast, else the backbone's type.

    What is computed, its keys and its record are then those of the type named outright. ``here``:
    on this machine; else on a GPU that need not be there, all of which are fast at it.
    """
    if config.decode.dtype != "auto":
        return config
    faster = config.backbone.dtype != "bfloat16" and (not here or fast_bfloat16())
    return replace(config, decode=replace(config.decode, dtype="bfloat16" if faster else None))


def fast_bfloat16() -> bool:
    """Whether this machine convolves faster in bfloat16 than in float32.

    GPUs since Ampere do, and processors with AVX512_BF16 or AMX: measured on the former
    (docs/benchmarks.md). Others compute it in float32 and convert.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= AMPERE
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
