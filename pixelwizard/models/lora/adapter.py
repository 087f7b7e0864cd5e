"""A LoRA in training: low-rank pairs beside frozen linears.

Source: LoRA, arXiv 2106.09685. Small and our own, as PEFT wraps modules that this transformer
asks for the type of their weights, and keeps them under other names.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.config.objective import AdapterSettings
from pixelwizard.config.schema import ConfigError, listed


class LoRALinear(nn.Linear):
    """A frozen linear plus ``factor`` * up(down(x)); up starts at zero, so nothing changes.

    It has the base's weight and bias under their names, and its own as ``lora_A`` (down, [r, in])
    and ``lora_B`` (up, [out, r]).
    """

    def __init__(self, base: nn.Linear, rank: int, factor: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.factor = factor
        place = base.weight.device
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, device=place)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, device=place)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        down, up = (layer.weight.to(x.dtype) for layer in (self.lora_A, self.lora_B))
        return super().forward(x) + self.factor * F.linear(F.linear(x, down), up)


def add_adapter(network: nn.Module, settings: AdapterSettings, dtype: torch.dtype) -> None:
    """Freeze a network, in ``dtype``, and put a LoRA beside the targets in its blocks.

    Raises ConfigError for a target that no linear of a block has.
    """
    network.requires_grad_(False).to(dtype)
    linears = {
        name: module
        for name, module in network.named_modules()
        if name.startswith("blocks.") and isinstance(module, nn.Linear)
    }
    for target in settings.targets:
        if not any(_is_target(name, target) for name in linears):
            ends = dict.fromkeys(name.split(".", 2)[2] for name in linears)
            raise ConfigError(
                f"adapter.targets has {target!r}, which no linear of a block is named; they are"
                f" {listed(list(ends), len(ends))}, or the ends of these names"
            )
    for name, base in linears.items():
        if any(_is_target(name, target) for target in settings.targets):
            network.set_submodule(name, LoRALinear(base, settings.rank, settings.factor))


def is_adapter(name: str) -> bool:
    """Whether a weight with this name is one of a LoRA."""
    return ".lora_A." in name or ".lora_B." in name


def _is_target(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")
