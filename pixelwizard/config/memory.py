"""The settings of memory: where weights are, and how much of a device a stage may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from pixelwizard.config.setting import setting


@dataclass(frozen=True)
class MemorySettings:
    """Where the weights of a stage are, and how much device memory a stage may use.

    ``resident``: on the device while the stage runs. ``offload``: the same, but kept in host memory
    between groups of prompts instead of being read again. ``stream``: the blocks of a transformer
    stay in host memory and pass through the device. ``auto``: resident if it fits, else stream.
    ``budget_gb`` (1e9 bytes; None: what the device has), ``chunk`` tokens go through a layer
    together (None: as the plan chooses), ``residual`` is the type of the residual stream.
    """

    mode: Literal["auto", "resident", "offload", "stream"] = setting("auto", incidental=True)
    budget_gb: Optional[float] = setting(None, low=1.0, incidental=True)
    chunk: Optional[int] = setting(None, low=64, incidental=True)
    residual: Literal["float32", "bfloat16"] = "float32"
