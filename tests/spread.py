"""Decodes in real processes: all ranks of a gloo group run the same cases and save the results."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from ranks import start
from torch import Tensor

from pixelwizard.config.geometry import WHOLE, Tiles
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.parallel.exchange import Peers, RowShard
from pixelwizard.planning.device import Trace
from pixelwizard.stages.decode import Decode


@dataclass(frozen=True)
class Case:
    """A latent CTHW to be decoded by the first ``ranks`` ranks."""

    vae: WanVAE
    latent: Tensor
    ranks: int
    tiles: Tiles = WHOLE


def run(cases: dict[str, Case], folder: Path, world: int) -> list[dict[str, Any]]:
    """The results of every case on every rank, in the order of ranks; one start serves them all."""
    torch.save(cases, folder / "cases.pt")
    assert start(world, _as_rank, folder) == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _as_rank(folder: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    groups = {size: dist.new_group(list(range(size))) for size in range(2, world + 1)}
    cases: dict[str, Case] = torch.load(folder / "cases.pt", weights_only=False)
    found = {
        name: _decoded(case, groups[case.ranks])
        for name, case in cases.items()
        if rank < case.ranks
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@torch.no_grad()
def _decoded(case: Case, group: dist.ProcessGroup) -> dict[str, Any]:
    """Frames, the video before rounding (rows of whole frames), bytes sent, peak of bytes."""
    peers = Peers(group)
    sent = Sent()
    with sent, Trace(computing=True) as trace:
        frames = [frame[0] for frame in Decode(case.vae, case.tiles, peers)(case.latent)]
    found: dict[str, Any] = {"frames": frames, "sent": sent.bytes, "peak": trace.peak}
    if case.tiles == WHOLE and case.latent.shape[2] >= peers.size:
        rows = RowShard(peers, case.latent.shape[2])
        own = case.latent[None, :, :, rows.own]
        found["video"] = torch.cat(list(case.vae.decode_stream(own, rows)), dim=2)
    return found


class Sent:
    """A context that counts what this rank sends to others, by the type of the values."""

    def __init__(self) -> None:
        self.bytes: dict[torch.dtype, int] = {}
        exchange, gather = dist.all_to_all_single, dist.all_gather

        def all_to_all_single(received: Tensor, sent: Tensor, **how: Any) -> Any:
            self._count(sent, 1)
            return exchange(received, sent, **how)

        def all_gather(parts: list[Tensor], mine: Tensor, **how: Any) -> Any:
            self._count(mine, len(parts) - 1)
            return gather(parts, mine, **how)

        self._patches = [
            patch.object(dist, "all_to_all_single", all_to_all_single),
            patch.object(dist, "all_gather", all_gather),
        ]

    def _count(self, tensor: Tensor, times: int) -> None:
        self.bytes[tensor.dtype] = self.bytes.get(tensor.dtype, 0) + times * tensor.nbytes

    def __enter__(self) -> Sent:
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._patches:
            each.stop()
