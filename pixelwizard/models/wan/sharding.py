"""Weights sharded over ranks (FSDP2): a rank holds its slices and the whole block in use.

Every weight is cut along its first axis into equal parts; the last ones may be smaller or empty.
Slices are copied straight out of mapped files, so no rank ever holds a whole network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from pixelwizard.models.wan.dit import WanDiT


def shard(network: WanDiT, mesh: DeviceMesh) -> None:
    """Cut the weights of a network, possibly on the meta device, over the ranks of ``mesh``.

    A mesh of two axes holds copies along the first and slices along the second.
    """
    for block in network.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(block, "text_keys_values")
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    for method in network.entrances:
        register_fsdp_forward_method(network, method)


def fill_slices(
    network: WanDiT, tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> None:
    """Give a sharded network on the meta device this rank's slices of its weights."""
    slices = {
        name: _slice(weight, tensors[name], device, dtype)
        for name, weight in network.state_dict().items()
    }
    network.load_state_dict(slices, strict=True, assign=True)


def _slice(
    weight: DTensor, whole: Tensor, device: torch.device | str, dtype: torch.dtype
) -> DTensor:
    mesh = weight.device_mesh
    assert mesh.ndim == 1, "weights are read in slices along one axis"
    rows = -(-len(whole) // mesh.size())
    start = rows * mesh.get_local_rank()
    own = whole[start : start + rows].to(device, dtype, copy=True)
    return DTensor.from_local(
        own, mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )
