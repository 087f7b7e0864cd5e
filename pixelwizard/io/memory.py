"""The peak memory since a stage started."""

from __future__ import annotations

import gc
import os
import resource
import sys
import threading
from pathlib import Path

import torch

GB = 1e9
SAMPLE_SECONDS = 0.02


class PeakMemory:
    """The peak from creation to ``stop``: the GPU's memory, else this process's resident memory.

    On a CPU a thread samples it many times a second: resetting the system's counter would spoil
    measurements of the whole process.
    """

    def __init__(self) -> None:
        gc.collect()
        self._bytes, self._stopped = 0, threading.Event()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            threading.Thread(target=self._sample, daemon=True).start()

    def gb(self) -> float:
        """The peak so far, in GB."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / GB
        self._bytes = max(self._bytes, resident())
        return self._bytes / GB

    def stop(self) -> None:
        """Stop counting."""
        self._stopped.set()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._bytes = max(self._bytes, resident())


def available() -> int:
    """Free bytes of the machine."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(free) * 1024
    except (OSError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process in memory; where the system does not tell, the most there ever were."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * os.sysconf("SC_PAGE_SIZE")
