"""Training a LoRA in place of its network: what it stands on, and its file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from pixelwizard.config.schema import listed
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import file_digest, text_digest
from pixelwizard.models.checkpoints import lora_files, weight_files, weights_digest
from pixelwizard.models.lora.adapter import add_adapter, save_adapter
from pixelwizard.models.lora.merge import STAGE
from pixelwizard.training.starts import SHOWN, Start

FILE = "lora.safetensors"
Network = TypeVar("Network", bound=nn.Module)


def adapt(network: nn.Module, config: TrainConfig, start: Start) -> None:
    """Freeze a network and put a LoRA beside it.

    Raises ValueError where the network is not complete: what is missing would stay random.
    """
    if start.random:
        raise ValueError(
            f"adapter=lora trains no other weights, and {start.source} lacks"
            f" {listed(start.random, SHOWN)}; name a whole network with objective.init_from=FILE"
        )
    add_adapter(network, config.adapter, getattr(torch, config.backbone.dtype))


def twin(network: Network) -> Network:
    """A copy of a network that shares its frozen weights."""
    frozen: dict[int, object] = {
        id(weight): weight for weight in network.parameters() if not weight.requires_grad
    }
    made: Network = copy.deepcopy(network, frozen)
    return made


def base_digest(config: TrainConfig) -> str:
    """sha256 of the weights that a LoRA is trained on, LoRAs that are added to them included."""
    if config.objective.init_from is None:
        return weights_digest(config.backbone, config.part)
    files = weight_files(Path(config.objective.init_from))
    for lora in config.backbone.lora:
        if lora.stage == config.part:
            files += lora_files(lora)
    return text_digest("".join(map(file_digest, files)))


def export_adapter(weights: dict[str, Tensor], config: TrainConfig, folder: Path) -> None:
    """Write a LoRA with what it was trained for."""
    settings = config.adapter
    metadata = {
        STAGE: config.part,
        "pixelwizard.base": base_digest(config),
        "rank": str(settings.rank),
        "alpha": str(settings.alpha or settings.rank),
    }
    save_adapter(weights, settings.alpha, folder / FILE, metadata)
