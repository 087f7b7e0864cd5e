"""The GPUs of this machine, and the ranks of a job on them. No torch here."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import cache
from typing import Union

from pixelwizard.config.generate import GenerateConfig, PlanConfig
from pixelwizard.config.parallel import AXES, Mesh, is_open, resolve
from pixelwizard.config.train import TrainConfig

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
