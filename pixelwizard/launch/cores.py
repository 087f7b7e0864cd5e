"""The number of cores that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores of this process's affinity, or fewer where a control group (Linux) has a CPU quota."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas())])


def _quotas() -> Iterator[float]:
    """The quotas of this process's control groups, in cores; both versions of the interface."""
    try:
        lines = GROUPS.read_text("ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _limits(MOUNT, group, ("cpu.max",))
        elif "cpu" in controllers.split(","):
            yield from _limits(MOUNT / "cpu", group, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def _limits(mount: Path, group: str, names: tuple[str, ...]) -> Iterator[float]:
    """The quota of a group and of each group around it, as far as this process sees them."""
    folder = mount / group.lstrip("/")
    for place in (folder, *folder.parents[: len(folder.parts) - len(mount.parts)]):
        try:
            words = " ".join((place / name).read_text("ascii") for name in names).split()
        except OSError:
            continue
        if words[0] not in ("max", "-1"):
            yield int(words[0]) / int(words[1])
