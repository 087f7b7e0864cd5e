"""The memory that a stage needed: the peak since it started."""

from __future__ import annotations

import gc
import re
import resource
import sys
from pathlib import Path

import torch

GB = 1e9


def reset_peak() -> None:
    """Let go of what is not referenced any more and start counting anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is resident
    except OSError:
        return


def peak_gb() -> float:
    """GB of the accelerator, else of this process, at most in use since ``reset_peak``.

    Where the system cannot count anew, since the process started.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GB
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024 / GB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GB
