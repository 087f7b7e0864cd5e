"""The cores and GPUs of this machine, and the ranks of a job on them. No torch here."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Union

from pixelwizard.config.generate import GenerateConfig, PlanConfig
from pixelwizard.config.parallel import AXES, Mesh, is_open, resolve
from pixelwizard.config.train import TrainConfig

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


COUNT = "import torch; print(torch.cuda.device_count())"


@cache
def count_gpus() -> int:
    """The number of GPUs that torch finds, in a separate process; 0 if it fails."""
    place = os.path.dirname(os.__file__)  # no user's torch.py lies here
    asked = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, cwd=place)
    return int(asked.stdout) if asked.stdout.strip().isdigit() else 0


def mesh_of(config: Union[GenerateConfig, TrainConfig]) -> Mesh:
    """The mesh of a job on this machine; without a GPU the ranks are CPU processes.

    GPUs are counted only where a size depends on them. Raises ConfigError where the settings ask
    for more than there is.
    """
    return _mesh(config, _gpus_of(config) or asked_ranks(config))


def planned_mesh(config: PlanConfig) -> Mesh:
    """The mesh of a plan, which may ask for more devices than this machine has.

    Raises ConfigError where the settings ask for more than their own ``parallel.devices``.
    """
    return _mesh(config, max(_gpus_of(config), asked_ranks(config)))


def _mesh(config: Union[GenerateConfig, PlanConfig, TrainConfig], devices: int) -> Mesh:
    return resolve(config.parallel, config.backbone.dit.num_heads, devices, config.guided)


def _gpus_of(config: Union[GenerateConfig, PlanConfig, TrainConfig]) -> int:
    """The GPUs of this machine, or 0 where no size depends on them."""
    parallel = config.parallel
    return count_gpus() if is_open(parallel) and parallel.devices is None else 0


def asked_ranks(config: Union[GenerateConfig, PlanConfig, TrainConfig]) -> int:
    """The number of ranks of the given sizes."""
    return math.prod(getattr(config.parallel, axis) or 1 for axis in AXES)
