"""This process among the ranks of its job: the division of work and the communication.

The ranks of a prompt compute a sampling stage together. Ranks of different prompts work
independently, unless weights are sharded over all ranks. Then every rank takes part in every pass,
so a group with fewer prompts repeats another group's and drops the results.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pixelwizard.config.parallel import AXES, SINGLE, Mesh
from pixelwizard.io.terminal import reason

if TYPE_CHECKING:
    from pixelwizard.parallel.exchange import CFGParallel, Peers, Ulysses

Value = TypeVar("Value")

PATIENCE = timedelta(hours=12)
"""How long a rank waits for another, which may be decoding; a dead rank ends the job anyway."""


class Group:
    """Ranks that wait for each other, along one axis of a mesh; None: this process alone."""

    def __init__(self, axis: DeviceMesh | None = None) -> None:
        self.axis = axis if axis is not None and axis.size() > 1 else None
        self.size = axis.size() if axis is not None else 1

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks of the group, in their order."""
        if self.axis is None:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.axis.get_group())
        return found

    def from_first(self, value: Value) -> Value:
        """The value of the group's first rank, on every one."""
        if self.axis is None:
            return value
        group, box = self.axis.get_group(), [value]
        dist.broadcast_object_list(box, src=dist.get_global_rank(group, 0), group=group)
        return box[0]

    def barrier(self) -> None:
        """Wait for the group."""
        self.gather(None)

    def peers(self) -> Peers | None:
        """The group as the peers of a decode; None: this process alone."""
        if self.axis is None:
            return None
        from pixelwizard.parallel.exchange import Peers

        return Peers(self.axis.get_group())


ALONE = Group()


class Rank:
    """One rank of a mesh, and its groups. Alone it is all of them, and nothing is sent."""

    def __init__(self, mesh: Mesh = SINGLE, device: torch.device | None = None) -> None:
        self.mesh = mesh
        self.number = dist.get_rank() if mesh.world > 1 else 0
        self.place = mesh.place(self.number)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.everyone, self.prompt = Group(), Group()
        self.two_axes: DeviceMesh | None = None
        self.cfg: CFGParallel | None = None
        self.ulysses: Ulysses | None = None
        if mesh.world > 1:
            self._make_groups()

    def _make_groups(self) -> None:
        from pixelwizard.parallel.exchange import CFGParallel, Ulysses

        mesh, kind = self.mesh, self.device.type
        self.everyone = Group(init_device_mesh(kind, (mesh.world,), mesh_dim_names=("world",)))
        two, three = (mesh.prompts, mesh.per_prompt), (mesh.prompts, mesh.guidance, mesh.sequence)
        self.two_axes = init_device_mesh(kind, two, mesh_dim_names=TWO_AXES)
        self.prompt = Group(self.two_axes[TWO_AXES[1]])
        axes = init_device_mesh(kind, three, mesh_dim_names=AXES)
        if mesh.guidance > 1:
            self.cfg = CFGParallel(axes["guidance"].get_group())
        if mesh.sequence > 1:
            self.ulysses = Ulysses(axes["sequence"].get_group())

    @property
    def local(self) -> int:
        """How many ranks of the job are on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.mesh.world))

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks for the job: status, tracker, contact sheet."""
        return self.number == 0

    @property
    def is_lead(self) -> bool:
        """Whether this rank writes the results of its prompt's ranks."""
        return self.place.guidance == self.place.sequence == 0

    @property
    def bound(self) -> Group:
        """The ranks that make every pass of a transformer together."""
        return self.everyone if self.mesh.shard == "all" else self.prompt

    @property
    def shards(self) -> DeviceMesh | None:
        """The axis over which a transformer's weights are sliced."""
        return None if self.mesh.shard == "none" else self.bound.axis

    def own(self, items: Sequence[Value]) -> list[Value]:
        """The part of all ``items`` that this rank's prompt group does."""
        return list(items[self.place.prompts :: self.mesh.prompts])

    def share(self, own: list[str], group: Group) -> tuple[list[str], int]:
        """The list ``own`` of this prompt's lead, filled up as others need; how many are its own.

        All ranks of a group must make the same number of passes, so shorter lists are filled up
        with the first item of the longest.
        """
        lists = group.gather(own)[:: self.mesh.per_prompt]
        mine, longest = lists[self.place.prompts % len(lists)], max(lists, key=len)
        return mine + longest[:1] * (len(longest) - len(mine)), len(mine)


TWO_AXES = ("data_parallel", "tensor_parallel")
"""Prompts, and the ranks of one prompt, as Lightning calls them."""


class MeshStrategy(ModelParallelStrategy):
    """Lightning's strategy on the mesh of the whole job, which outlives a stage's Trainer.

    It waits for and sends to the ranks of ``group`` only: others may be elsewhere, or done.
    """

    def __init__(self, rank: Rank, group: Group) -> None:
        mesh = rank.mesh
        super().__init__(mesh.prompts, mesh.per_prompt, save_distributed_checkpoint=False)
        self.rank, self.group = rank, group

    def setup_environment(self) -> None:
        """As the parent's, without new process groups for every Trainer."""
        self._setup_distributed()
        self._device_mesh = self.rank.two_axes
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    def barrier(self, name: str | None = None) -> None:
        """Wait for the group."""
        self.group.barrier()

    def broadcast(self, obj: Value, src: int = 0) -> Value:
        """What the first rank of the group has."""
        assert src == 0
        return self.group.from_first(obj)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """The mean, or what ``reduce_op`` names, over the group."""
        if self.group.axis is None:
            return tensor
        return super().reduce(tensor, group or self.group.axis.get_group(), reduce_op)


def trainer_options(
    rank: Rank, group: Group, strategy: type[MeshStrategy] = MeshStrategy
) -> dict[str, Any]:
    """How a Trainer whose work the ranks of ``group`` share finds its device."""
    accelerator = "cuda" if rank.device.type == "cuda" else "cpu"
    if group.size == 1:
        devices: Any = [rank.device.index or 0] if accelerator == "cuda" else 1
        alone = [LightningEnvironment()]  # whatever launched this process
        return {"accelerator": accelerator, "devices": devices, "plugins": alone}
    return {
        "accelerator": accelerator,
        "devices": rank.local,
        "num_nodes": rank.mesh.world // rank.local,
        "strategy": strategy(rank, group),
        "plugins": [TorchElasticEnvironment()],
        "use_distributed_sampler": False,
        "inference_mode": False,
    }


@contextmanager
def joined(mesh: Mesh) -> Iterator[Rank]:
    """This process as a rank of ``mesh``, found by the environment that its launcher gave it.

    Raises ValueError if there is no device for it, or no connection to the other ranks.
    """
    if mesh.world == 1:
        yield Rank()
        return
    device = _own_device()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ValueError(
            f"the {mesh.world} ranks cannot meet at {place} ({reason(error)}); repeat the command,"
            " or give torchrun another port"
        ) from error
    try:
        yield Rank(mesh, device)
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
