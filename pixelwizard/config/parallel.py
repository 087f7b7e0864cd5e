"""How the ranks of a job share its work: one mesh of prompts x guidance x sequence. No torch here.

Without a GPU the ranks are CPU processes; the GPUs of this machine are counted only where a size
depends on them.

A rank is one process with one device. Ranks of one prompt are adjacent:
rank = (prompt group * guidance + half) * sequence + place.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, NamedTuple, Optional, Protocol

from pixelwizard.config.schema import ConfigError, check_range, setting

MODES = {
    "single": (),
    "prompts": ("prompts",),
    "fsdp": ("prompts",),
    "ulysses": ("sequence",),
    "guidance": ("guidance",),
    "hybrid": ("prompts", "guidance", "sequence"),
    "auto": ("prompts", "guidance", "sequence"),
}
"""The axes that each mode may use; the others have size 1."""
AXES = ("prompts", "guidance", "sequence")


@dataclass(frozen=True)
class ParallelSettings:
    """How many ranks share a job, and along which axes.

    ``prompts``: groups of ranks, each with a different prompt. ``guidance=2``: each half of a group
    runs one of the two passes of classifier-free guidance. ``sequence``: ranks that share the
    tokens of a pass (Ulysses attention). An open size (None) of the mode follows from ``devices``,
    the maximum number of ranks (None: the GPUs of this machine). ``shard``: the transformers'
    weights are sharded over the ranks of a prompt (``sequence``) or over ``all``. ``launch=False``
    leaves the start of the ranks to torchrun or a cluster, on one machine or several: it only
    writes the run folder.
    """

    mode: Literal["single", "prompts", "fsdp", "ulysses", "guidance", "hybrid", "auto"] = "single"
    prompts: Optional[int] = None
    guidance: Optional[int] = None
    sequence: Optional[int] = None
    shard: Literal["none", "sequence", "all"] = "none"
    devices: Optional[int] = setting(None, low=1)
    launch: bool = True


class Place(NamedTuple):
    """The position of a rank in the mesh."""

    prompts: int
    guidance: int
    sequence: int


@dataclass(frozen=True)
class Mesh:
    """The sizes of the three axes, over which ranks weights are sharded, and why."""

    prompts: int = 1
    guidance: int = 1
    sequence: int = 1
    shard: str = "none"
    reason: str = field(default="", compare=False)

    @property
    def world(self) -> int:
        """The number of ranks."""
        return self.prompts * self.per_prompt

    @property
    def per_prompt(self) -> int:
        """The ranks that make one video together."""
        return self.guidance * self.sequence

    @property
    def shards(self) -> int:
        """The number of slices of a transformer's weights."""
        return {"none": 1, "sequence": self.per_prompt, "all": self.world}[self.shard]

    def place(self, rank: int) -> Place:
        """The coordinates of a rank."""
        group, within = divmod(rank, self.per_prompt)
        return Place(group, *divmod(within, self.sequence))


SINGLE = Mesh()
"""One rank."""


def check_parallel(settings: ParallelSettings, heads: int, guided: bool, tokens: int) -> None:
    """Refuse sizes that no number of devices could satisfy; raises ConfigError.

    ``heads`` of the attention, ``guided``: whether any step is; ``tokens`` of the shortest
    sequence.
    """
    own = MODES[settings.mode]
    for axis in AXES:
        size = getattr(settings, axis)
        if size is None:
            continue
        check_range(f"parallel.{axis}", size, 1, 2 if axis == "guidance" else None)
        if size > 1 and axis not in own:
            fitting = next(mode for mode, axes in MODES.items() if axes == (axis,))
            raise ConfigError(
                f"parallel.{axis}={size} is not for parallel={settings.mode};"
                f" use parallel={fitting} or parallel=hybrid"
            )
    _check_sequence(settings, heads, tokens)
    if not guided and (settings.guidance == 2 or settings.mode == "guidance"):
        raise ConfigError(
            "parallel.guidance=2 needs guided steps, but anchor and schedule have none; use"
            " parallel.guidance=1 or parallel=prompts"
        )
    _check_shard(settings)


def _check_sequence(settings: ParallelSettings, heads: int, tokens: int) -> None:
    size = settings.sequence or 1
    fitting = [n for n in range(1, heads + 1) if heads % n == 0 and n <= tokens]
    if size not in fitting:
        nearest = min(fitting, key=lambda n: (abs(n - size), n))
        raise ConfigError(
            f"parallel.sequence={size} must divide the {heads} heads of the backbone and be at most"
            f" the {tokens} tokens of its shortest sequence; nearest: {nearest}"
        )


def _check_shard(settings: ParallelSettings) -> None:
    mode, shard = settings.mode, settings.shard
    if mode == "fsdp" and shard != "all":
        raise ConfigError(
            f"parallel.shard={shard} is not for parallel=fsdp, which shards over all; use"
            " parallel=prompts or parallel.shard=all"
        )
    if mode in ("single", "prompts") and shard != "none":
        raise ConfigError(
            f"parallel.shard={shard} is not for parallel={mode}; use parallel=fsdp or"
            " parallel=hybrid"
        )


def is_open(settings: ParallelSettings) -> bool:
    """Whether the number of ranks depends on the number of devices."""
    sizes = [getattr(settings, axis) for axis in MODES[settings.mode]]
    if settings.mode == "guidance":
        return False
    return settings.prompts is None if settings.mode == "hybrid" else None in sizes


def resolve(settings: ParallelSettings, heads: int, devices: int, guided: bool = True) -> Mesh:
    """The mesh on at most ``devices`` devices; the settings have passed ``check_parallel``.

    ``auto`` takes guidance first, which halves a step for one exchange, then as many ranks of a
    sequence as divide the heads, then prompts. Raises ConfigError for more ranks than devices and
    for an open size where there is one device.
    """
    if settings.devices is not None:
        devices = settings.devices
    guidance, sequence, prompts = settings.guidance, settings.sequence, settings.prompts
    if settings.mode == "guidance":
        guidance = 2
    elif settings.mode == "auto" and guidance is None:
        guidance = 2 if guided and devices >= 2 else 1
    if settings.mode in ("auto", "ulysses") and sequence is None:
        most = devices // ((guidance or 1) * (prompts or 1))
        sequence = max(n for n in range(1, heads + 1) if heads % n == 0 and n <= max(1, most))
    if "prompts" in MODES[settings.mode] and prompts is None:
        prompts = max(1, devices // ((guidance or 1) * (sequence or 1)))
    mesh = Mesh(prompts or 1, guidance or 1, sequence or 1, settings.shard)
    _check_devices(settings, mesh, devices)
    return replace(mesh, reason=_reason(mesh, settings, heads, devices, guided))


def _check_devices(settings: ParallelSettings, mesh: Mesh, devices: int) -> None:
    sizes, open_sizes = _sizes(mesh), is_open(settings)
    if mesh.world > devices and (open_sizes or settings.devices is not None):
        raise ConfigError(
            f"parallel={settings.mode} asks for {mesh.world} ranks ({sizes}), more than the"
            f" {devices} device{'s' if devices > 1 else ''}; lower a size or raise parallel.devices"
        )
    if mesh.world == 1 and open_sizes and settings.mode != "auto":
        axis = MODES[settings.mode][0]
        raise ConfigError(
            f"parallel={settings.mode} finds only one device; set the number of ranks,"
            f" like parallel.{axis}=2"
        )
    if mesh.shard != "none" and mesh.shards == 1 and settings.mode != "auto":
        instead = "parallel=single" if settings.mode == "fsdp" else "parallel.shard=none"
        raise ConfigError(
            f"parallel.shard={mesh.shard} has one rank to shard over ({sizes}); use {instead} or"
            " larger sizes"
        )


def _sizes(mesh: Mesh) -> str:
    return f"{mesh.prompts} prompts x {mesh.guidance} guidance x {mesh.sequence} sequence"


def _reason(mesh: Mesh, settings: ParallelSettings, heads: int, devices: int, guided: bool) -> str:
    """One line on why ``auto`` chose these sizes."""
    if settings.mode != "auto":
        return ""
    parts = [
        "guidance 2: one exchange of the prediction a step"
        if mesh.guidance == 2
        else f"guidance 1: {'one device' if guided else 'no guided step'}",
        f"sequence {mesh.sequence}: the most that divides {heads} heads",
        f"prompts {mesh.prompts}: the rest",
    ]
    idle = devices - mesh.world
    return "; ".join([*parts, *([f"{idle} idle"] if idle > 0 else [])])


def mesh_of_world(settings: ParallelSettings, heads: int, world: int, guided: bool = True) -> Mesh:
    """The mesh of ranks that were started already. Raises ConfigError if they are not its size."""
    mesh = resolve(replace(settings, devices=None), heads, world, guided)
    if mesh.world != world:
        raise ConfigError(
            f"parallel={settings.mode} is for {mesh.world} rank{'s' if mesh.world > 1 else ''}"
            f" ({_sizes(mesh)}), but {world} were started; start {mesh.world}, or change the sizes"
        )
    return mesh


class Shared(Protocol):
    """The settings of a task whose work ranks can share."""

    @property
    def parallel(self) -> ParallelSettings: ...
    @property
    def backbone(self) -> Any: ...
    @property
    def guided(self) -> bool: ...


def mesh_of(config: Shared) -> Mesh:
    """The mesh of a job on this machine.

    Raises ConfigError where the settings ask for more than there is.
    """
    mesh = _on(config, _gpus_of(config) or asked_ranks(config))
    cores = os.cpu_count() or 1
    most = RANKS_PER_CORE * cores
    if mesh.world > most and mesh.world > count_gpus():
        raise ConfigError(
            f"parallel={config.parallel.mode} would start {mesh.world} processes, and {cores}"
            f" core{'s' if cores > 1 else ''} without as many GPUs take at most {most}; use smaller"
            " sizes"
        )
    return mesh


def planned_mesh(config: Shared) -> Mesh:
    """The mesh of a plan, which may ask for more devices than this machine has.

    Raises ConfigError where the settings ask for more than their own ``parallel.devices``.
    """
    return _on(config, max(_gpus_of(config), asked_ranks(config)))


def asked_ranks(config: Shared) -> int:
    """The number of ranks of the given sizes."""
    return math.prod(getattr(config.parallel, axis) or 1 for axis in AXES)


def _on(config: Shared, devices: int) -> Mesh:
    return resolve(config.parallel, config.backbone.dit.num_heads, devices, config.guided)


def _gpus_of(config: Shared) -> int:
    """The GPUs of this machine, or 0 where no size depends on them."""
    parallel = config.parallel
    return count_gpus() if is_open(parallel) and parallel.devices is None else 0


RANKS_PER_CORE = 16
"""At most, where the ranks are CPU processes; more would only take memory from each other."""


@cache
def count_gpus() -> int:
    """The number of GPUs that torch finds, in a separate process; 0 if it fails."""
    place = os.path.dirname(os.__file__)  # no user's torch.py lies here
    count = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    asked = subprocess.run(count, capture_output=True, text=True, cwd=place)
    return int(asked.stdout) if asked.stdout.strip().isdigit() else 0
