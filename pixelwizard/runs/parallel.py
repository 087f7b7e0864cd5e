"""This process among the ranks of its job: who computes what, and what they tell each other.

The ranks of a prompt compute a sampling stage together. Those of different prompts go their own
ways, unless weights are sharded over all: then every rank takes part in every pass, so all groups
of ranks do equal work and a group with less repeats some of another's, which is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pixelwizard.diffusion.guidance import Halves
from pixelwizard.parallel_settings import Mesh
from pixelwizard.wan.attention import Ulysses

Value = TypeVar("Value")

ALONE = Mesh()
PATIENCE = timedelta(hours=12)
"""How long a rank waits for another, which may be decoding: whoever dies ends all anyway."""


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error says that another rank of the job is gone."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


class Ranks:
    """One rank of a mesh. Alone it is all of them, and nothing is sent."""

    def __init__(self, mesh: Mesh = ALONE, device: torch.device | None = None) -> None:
        self.mesh = mesh
        self.rank = dist.get_rank() if mesh.world > 1 else 0
        self.place = mesh.place(self.rank)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.two_axes = self._axes((mesh.prompts, mesh.per_prompt), TWO_AXES)
        self.everyone = self._axes((mesh.world,), ("world",))
        three = self._axes((mesh.prompts, mesh.guidance, mesh.sequence), THREE_AXES)
        self.halves = Halves(three["guidance"].get_group()) if mesh.guidance > 1 else None
        self.ulysses = Ulysses(three["sequence"].get_group()) if mesh.sequence > 1 else None

    def _axes(self, sizes: tuple[int, ...], names: tuple[str, ...]) -> Any:
        if self.mesh.world == 1:
            return None
        return init_device_mesh(self.device.type, sizes, mesh_dim_names=names)

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks for the job: status, tracker, contact sheet."""
        return self.rank == 0

    @property
    def is_lead(self) -> bool:
        """Whether this rank writes what the ranks of its prompt make."""
        return self.place.guidance == self.place.sequence == 0

    @property
    def shards(self) -> DeviceMesh | None:
        """The ranks that a transformer's weights are sliced over."""
        return {"none": None, "sequence": self._prompt, "all": self.everyone}[self.mesh.shard]

    @property
    def bound(self) -> DeviceMesh | None:
        """The ranks whose passes are bound to those of this one; None where there are no others."""
        if self.mesh.shard == "all":
            return self.everyone
        return self._prompt if self.mesh.per_prompt > 1 else None

    @property
    def _prompt(self) -> DeviceMesh | None:
        return None if self.two_axes is None else self.two_axes[TWO_AXES[1]]

    def from_first(self, value: Value) -> Value:
        """The value of rank 0, on every rank."""
        if self.everyone is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def from_lead(self, value: Value) -> Value:
        """The value of the lead among the ranks of this prompt, on each of them."""
        if self._prompt is None or self.mesh.per_prompt == 1:
            return value
        group, box = self._prompt.get_group(), [value]
        dist.broadcast_object_list(box, src=dist.get_global_rank(group, 0), group=group)
        return box[0]

    def from_all(self, value: Value) -> list[Value]:
        """The values of all ranks, by rank."""
        return [value] if self.everyone is None else self._gathered(self.everyone, value)

    def from_bound(self, value: Value) -> list[Value]:
        """The values of the leads among the bound ranks."""
        if self.bound is None:
            return [value]
        return self._gathered(self.bound, value)[:: self.mesh.per_prompt]

    def share(self, own: list[str], filled: bool) -> tuple[list[str], int]:
        """The list of this prompt's lead and its length; ``filled`` up as far as bound ranks need.

        What is repeated, so that bound ranks make equally many passes, is another group's first.
        """
        lists = self.from_bound(own)
        mine, longest = lists[self.place.prompts % len(lists)], max(lists, key=len)
        more = len(longest) - len(mine) if filled else 0
        return mine + longest[:1] * more, len(mine)

    def barrier(self) -> None:
        """Wait for the bound ranks."""
        if self.bound is not None:
            self._gathered(self.bound, None)

    def own(self, items: Sequence[Value]) -> list[Value]:
        """Those that this rank's prompt group is to do, of those of all groups."""
        return list(items[self.place.prompts :: self.mesh.prompts])

    @staticmethod
    def _gathered(mesh: DeviceMesh, value: Value) -> list[Value]:
        found: list[Any] = [None] * mesh.size()
        dist.all_gather_object(found, value, group=mesh.get_group())
        return found


TWO_AXES = ("data_parallel", "tensor_parallel")
"""Prompts, and the ranks of one prompt, as Lightning calls them."""
THREE_AXES = ("prompts", "guidance", "sequence")


class MeshStrategy(ModelParallelStrategy):
    """Lightning's strategy on the mesh of the whole job, which outlives a stage's Trainer.

    It waits for bound ranks only: those of other prompts may be elsewhere, or done.
    """

    def __init__(self, ranks: Ranks) -> None:
        mesh = ranks.mesh
        super().__init__(mesh.prompts, mesh.per_prompt, save_distributed_checkpoint=False)
        self.ranks = ranks

    def setup_environment(self) -> None:
        """As the parent's, without new process groups for every Trainer."""
        self._setup_distributed()
        self._device_mesh = self.ranks.two_axes
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def barrier(self, name: str | None = None) -> None:
        """Wait for the bound ranks."""
        self.ranks.barrier()


def trainer_options(ranks: Ranks, together: bool) -> dict[str, Any]:
    """How a Trainer finds its device; ``together``: whether bound ranks share its work."""
    accelerator = "cuda" if ranks.device.type == "cuda" else "cpu"
    if ranks.bound is None or not together:
        devices: Any = [ranks.device.index or 0] if accelerator == "cuda" else 1
        alone = [LightningEnvironment()]  # whatever launched this process
        return {"accelerator": accelerator, "devices": devices, "plugins": alone}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.mesh.world))
    return {
        "accelerator": accelerator,
        "devices": local,
        "num_nodes": ranks.mesh.world // local,
        "strategy": MeshStrategy(ranks),
        "plugins": [TorchElasticEnvironment()],
        "use_distributed_sampler": False,
        "inference_mode": False,
    }


@contextmanager
def joined(mesh: Mesh) -> Iterator[Ranks]:
    """This process as a rank of ``mesh``, found by the environment that its launcher gave it.

    Raises ValueError where there is no device for it, or no way to the other ranks.
    """
    if mesh.world == 1:
        yield Ranks()
        return
    device = _own_device()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"the {mesh.world} ranks cannot meet at {place} ({reason}); repeat the command, or give"
            " torchrun another port"
        ) from error
    try:
        yield Ranks(mesh, device)
    finally:
        dist.destroy_process_group()


def _own_device() -> torch.device:
    """The GPU of this rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    started = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
    if started > there:
        raise ValueError(
            f"{started} ranks were started on a machine with {there} GPU{'s' * (there > 1)}; use"
            f" parallel.devices={there}, or sizes with that product"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
