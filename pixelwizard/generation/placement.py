"""Networks placed by the plan: on the device, in host memory, or streamed from there."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from pixelwizard.config.generate import ATTENTION, SamplingSettings
from pixelwizard.config.geometry import Tiles
from pixelwizard.io.process import GB, available
from pixelwizard.io.terminal import STAGES
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import CHUNK, PAIRED, WanDiT
from pixelwizard.models.wan.kernels import chosen, reorder_linears
from pixelwizard.models.wan.umt5 import TextEncoder
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.parallel.mesh import Rank
from pixelwizard.records.provenance import Job
from pixelwizard.stages.decode import allowed, surely_whole

if TYPE_CHECKING:
    from pixelwizard.models.wan.streaming import Packed
    from pixelwizard.planning.report import Plan

Network = TypeVar("Network", bound=nn.Module)
Load = Callable[..., Network]
"""A loader: (backbone, device, dtype); those of transformers also take a mesh, for slices."""
CPU = torch.device("cpu")
STREAMED = ("text", "anchor", "detail")
"""Stages whose networks are chains of equal blocks, which can be streamed from host memory."""
SHARDED = ("anchor", "detail")
"""Stages whose weights can be sharded over several ranks."""

log = logging.getLogger(__name__)


def plan_of(
    config: SamplingSettings, rank: Rank | None = None, jobs: Sequence[Job] = ()
) -> Plan | None:
    """The plan of a rank; None on a CPU without a budget, where the system manages memory.

    It holds for the largest of the ``jobs`` (none: for a text), with the stages that any needs.
    Even on such a CPU ``decode=auto`` is planned, for the memory that the clip leaves free, unless
    whole frames easily fit; nothing is refused there. Elsewhere raises ValueError if a stage cannot
    fit.
    """
    rank = rank or Rank()
    sizes = [config.resolution, *(job.size for job in jobs if job.encode_key)]
    largest = max(sizes[1:] or sizes, key=lambda size: (size.width * size.height, size.frames))
    needed = {kind for job in jobs for kind, _ in job.results} | {"decode"} if jobs else STAGES
    only = [stage for stage in ("text", "encode", "anchor", "detail", "decode") if stage in needed]
    clip = largest if len(sizes) > 1 else None
    limited = torch.cuda.is_available() or config.memory.budget_gb is not None
    whole = replace(config, resolution=largest)
    free = max(1, available() // rank.local - largest.geometry.clip_bytes)
    if not limited and (config.decode.mode != "auto" or surely_whole(whole, free)):
        return None
    from pixelwizard.planning.planner import make_plan  # only where something is traced

    if limited:
        plan = make_plan(config, only=only, mesh=rank.mesh, clip=clip)
        if plan.refusal:
            raise ValueError(plan.refusal)
    else:
        plan = make_plan(whole, budget_gb=free / GB, only=["decode"], mesh=rank.mesh)
    for stage in plan.stages:
        log.info("plan: %s", stage)
    return plan


def device_name() -> str:
    """The device that the stages compute on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()}"


class ModelLoader:
    """Loads the network of each stage; with ``offload`` each is read only once per run.

    In offload a copy of the weights stays in host memory, pinned where there is a GPU, and what a
    stage uses are copies of them on the device. ``rank``: this process among others.
    """

    def __init__(
        self, config: SamplingSettings, plan: Plan | None, rank: Rank | None = None
    ) -> None:
        self.config, self.rank = config, rank or Rank()
        self.planned = plan.by_name if plan else {}
        self.attention = ATTENTION.make(config.attention, "attention")
        self._kept: dict[str, Packed] = {}

    def mode(self, stage: str) -> str:
        """resident, offload, stream or sharded."""
        if stage in self.planned:
            return self.planned[stage].mode
        wanted = self.config.memory.mode
        return "resident" if wanted == "auto" else wanted

    def planned_gb(self, stage: str) -> float | None:
        """The predicted peak of a stage."""
        return self.planned[stage].peak_gb if stage in self.planned else None

    def chunk(self, stage: str) -> int:
        """Tokens that go through a layer of a transformer together."""
        planned = self.planned[stage].chunk if stage in self.planned else None
        return planned or self.config.memory.chunk or CHUNK

    @property
    def tiles(self) -> Tiles:
        """The tiles that frames are decoded in."""
        if "decode" not in self.planned:
            return allowed(self.config)[0]
        rows, columns = self.planned["decode"].tiles or [1, 1]
        return Tiles(rows, columns, self.config.decode.overlap)

    def load(
        self, stage: str, load: Load[Network], device: torch.device, dtype: torch.dtype
    ) -> Network:
        """The network of a stage, ready to compute on ``device``."""
        mode, backbone = self.mode(stage), self.config.backbone
        if self.rank.shards is not None and stage in SHARDED:
            network = load(backbone, device, dtype, self.rank.shards)
            return self._configured(stage, network)
        if mode == "offload":
            return self._offloaded(stage, load, device, dtype)
        if mode == "stream" and stage in STREAMED:
            network = load(backbone, CPU, dtype)
            assert isinstance(network, (WanDiT, TextEncoder))
            network.stream_from_host(device, asynchronous=device.type == "cuda")
        else:
            network = load(backbone, device, dtype)
        self._configured(stage, network)
        if mode == "resident" and device.type == "cpu" and _reorderable(network):
            reorder_linears(network)
        return network

    def _offloaded(
        self, stage: str, load: Load[Network], device: torch.device, dtype: torch.dtype
    ) -> Network:
        from pixelwizard.models.wan.streaming import Packed, viewing

        if stage not in self._kept:
            network = load(self.config.backbone, CPU, dtype)
            self._kept[stage] = Packed(network, pinned=device.type == "cuda")
        kept = self._kept[stage]
        there = viewing(kept.module, kept.flat.to(device, non_blocking=True))
        return self._configured(stage, there)  # type: ignore[return-value]

    def _configured(self, stage: str, network: Network) -> Network:
        """Tell a network how to use memory and which functions to compute with."""
        if isinstance(network, WanDiT):
            network.chunk = self.chunk(stage)
            network.paired = PAIRED["cuda" if self.rank.device.type == "cuda" else "cpu"]
            network.lean = stage in self.planned and self.planned[stage].lean
            network.text_on_host = network.lean
            network.residual = getattr(torch, self.config.memory.residual)
            network.ulysses = self.rank.ulysses
            network.attention = self.attention
        if isinstance(network, (WanDiT, WanVAE)):
            network.use(chosen(self.config.compile, self.rank.device.type == "cuda"))
        if isinstance(network, ShortcutDiT):
            planned = self.planned.get(stage)
            network.features_on_host = planned is not None and planned.features == "host"
        return network


def _reorderable(network: nn.Module) -> bool:
    """Whether all uses of a network's linears are whole, and a second copy would fit in memory."""
    if not isinstance(network, WanDiT) or network.lean:
        return False
    return 2 * sum(weight.nbytes for weight in network.parameters()) < available()
