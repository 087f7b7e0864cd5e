"""The weights that a training starts from: the backbone's, another file's, or random ones.

A LoRA stands on such weights, which it leaves as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from pixelwizard.config.objective import RANDOM
from pixelwizard.config.schema import ConfigError, listed
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import file_digest, text_digest
from pixelwizard.models.checkpoints import (
    MissingWeights,
    find_weights,
    lora_files,
    not_weights,
    weight_files,
    weights_digest,
)
from pixelwizard.models.lora.adapter import add_adapter
from pixelwizard.models.wan.files import Weight, read

Network = TypeVar("Network", bound=nn.Module)
LEAST_SHARE = 0.9
"""Of the tensors of a network that its starting weights must fit, its additions apart."""
SHOWN = 3
INIT, TEACHER = "objective.init_from", "objective.teacher"


@dataclass(frozen=True)
class Start:
    """``fitting`` of ``of`` tensors come from ``source``; ``random`` are the others' names."""

    source: str
    fitting: int
    of: int
    random: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rest = f"; newly initialised: {listed(self.random, SHOWN)}" if self.random else ""
        if not self.fitting:
            return f"from {self.of} newly initialised tensors"
        return f"from {self.source}: {self.fitting} of {self.of} tensors{rest}"


def start_from(
    network: nn.Module,
    path: str | Path | None,
    weights_of: Callable[[Path], Mapping[str, Weight]],
    additions: Set[str],
    key: str = INIT,
) -> Start:
    """Put those weights of a file into ``network`` that fit it by name and shape, one at a time.

    ``weights_of`` gives a file's weights under the network's names. ``None`` and ``random`` leave
    the network unchanged. Raises ValueError, naming ``key``, if the file is missing or another
    network's.
    """
    own: dict[str, Tensor] = network.state_dict()
    if path is None or path == RANDOM:
        return Start(RANDOM, 0, len(own))
    if not Path(path).is_file():
        raise ValueError(f"{key}={path} is not a file; give one with weights{_or_random(key)}")
    if Path(path).suffix != ".json" and (what := not_weights(Path(path))):  # no index of shards
        raise ValueError(f"{key}={path} {what}")
    given = weights_of(Path(path))
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    others = [name for name in own if name not in fitting]
    needed = len(own.keys() - additions)
    found = needed - len(set(others) - additions)
    if found < LEAST_SHARE * needed:
        raise ValueError(
            f"{key}={path} is of another network: {found} of {needed} tensors fit, {others[0]}"
            f" does not; give this network's weights{_or_random(key)}"
        )
    with torch.no_grad():
        for name, weight in fitting.items():
            own[name].copy_(read(weight, "cpu", own[name].dtype))
    return Start(str(path), len(fitting), len(own), others)


def _or_random(key: str) -> str:
    return f", or {INIT}={RANDOM}" if key == INIT else ""


def teacher_file(config: TrainConfig) -> Path | None:
    """The file of the teacher's weights, in its folder if it is one; None if none is named.

    Raises ConfigError if there is no such file.
    """
    given = config.objective.teacher
    if given is None or not Path(given).is_dir():
        return None if given is None else Path(given)
    folder = replace(config.backbone, folder=given, anchor=None, detail=None, lora=[])
    try:
        return find_weights(folder, config.part)
    except MissingWeights as error:
        raise ConfigError(f"{TEACHER}={given} has no {config.part} network: {error}") from None


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
    return copy.deepcopy(network, frozen)


def base_digest(config: TrainConfig) -> str:
    """sha256 of the weights that a LoRA is trained on, LoRAs that are added to them included."""
    if config.objective.init_from is None:
        return weights_digest(config.backbone, config.part)
    files = weight_files(Path(config.objective.init_from))
    for lora in config.backbone.lora:
        if lora.stage == config.part:
            files += lora_files(lora)
    return text_digest("".join(map(file_digest, files)))
