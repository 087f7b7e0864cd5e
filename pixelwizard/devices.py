"""How many ranks a job gets on this machine. Asks for GPUs without loading torch here."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import cache

from pixelwizard.parallel_settings import AXES, Mesh, is_open, resolve
from pixelwizard.plan_settings import PlanConfig
from pixelwizard.settings import Config

COUNT = "import torch; print(torch.cuda.device_count())"


@cache
def count_gpus() -> int:
    """The GPUs that torch finds, in a process of its own; 0 where it cannot say."""
    asked = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    return int(asked.stdout) if asked.stdout.strip().isdigit() else 0


def mesh_of(config: Config) -> Mesh:
    """The mesh of a job on this machine; GPUs are counted only where a size depends on them.

    Raises ConfigError where the settings ask for more than there is.
    """
    parallel = config.parallel
    counted = is_open(parallel) and parallel.devices is None
    devices = max(1, count_gpus()) if counted else 1
    return resolve(parallel, config.backbone.dit.num_heads, devices, config.guided)


def planned_mesh(config: PlanConfig) -> Mesh:
    """The mesh of a plan, which may ask for more devices than this machine has.

    Raises ConfigError where the settings ask for more than their own ``parallel.devices``.
    """
    parallel = config.parallel
    asked = math.prod(getattr(parallel, axis) or 1 for axis in AXES)
    counted = count_gpus() if is_open(parallel) and parallel.devices is None else 1
    return resolve(parallel, config.backbone.dit.num_heads, max(asked, counted), config.guided)
