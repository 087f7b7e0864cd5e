"""Data-parallel training: each rank has its batches, gradients are averaged, weights whole or cut.

Files hold whole tensors by name, as one process writes them, so a checkpoint is independent of the
sharding that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from pixelwizard.parallel.mesh import MeshStrategy


def gather_full(values: Any) -> Any:
    """Plain values with whole tensors on the CPU in place of slices; all ranks take part."""
    if isinstance(values, DTensor):
        return values.full_tensor().detach().cpu()
    if isinstance(values, dict):
        return {key: gather_full(value) for key, value in values.items()}
    if isinstance(values, list):
        return [gather_full(value) for value in values]
    return values


def completed(network: Any, make: Callable[[], nn.Module]) -> Any:
    """A network with whole weights on the CPU, the same one if it has them; all ranks take part.

    ``make`` gives one like it.
    """
    if not isinstance(network, FSDPModule):
        return network
    module: Any = network
    weights = gather_full(module.state_dict())
    with torch.device("meta"):
        twin = make()
    twin.load_state_dict(weights, assign=True)
    return twin


def shard_like(value: Any, own: Tensor) -> Any:
    """A whole tensor sharded like ``own``; nothing is sent, as every rank has the whole."""
    if not isinstance(own, DTensor) or not torch.is_tensor(value) or value.shape != own.shape:
        return value
    there = value.to(own.device)
    return distribute_tensor(there, own.device_mesh, own.placements, src_data_rank=None)


class TrainingStrategy(MeshStrategy):
    """Checkpoints with whole tensors, in one file that the first rank writes."""

    lightning_restore_optimizer = True  # type: ignore[assignment]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return dict(gather_full(self.lightning_module.state_dict()))

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return dict(gather_full(optimizer.state_dict()))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {
            name: shard_like(value, own[name]) for name, value in checkpoint["state_dict"].items()
        }
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            kept = {
                index: {
                    name: shard_like(value, parameters[index]) for name, value in values.items()
                }
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": kept})
