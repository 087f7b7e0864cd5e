"""Linears of transformer blocks with weights of 8 bits: half the memory, dequantised at each use.

A weight is rounded to int8 or float8 (e4m3) after a division by a scale of its own for every
output; the scale takes the largest value of the row to the largest of the type. The product runs in
the type of the input, so any device serves; nothing is faster, a block's weights are smaller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.models.wan.lazy import LazyTensor, Weight, read

TYPES = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""The type of each kind, and the largest value that is used of it."""
SCALE = "weight_scale"


class QuantisedLinear(nn.Module):
    """``nn.Linear`` with ``weight`` [out, in] in 8 bits and ``weight_scale`` [out, 1], frozen."""

    def __init__(self, linear: nn.Linear, kind: str) -> None:
        super().__init__()
        like, dtype = linear.weight, TYPES[kind][0]
        self.weight = nn.Parameter(torch.empty_like(like, dtype=dtype), requires_grad=False)
        self.weight_scale = nn.Parameter(like.new_empty(len(like), 1), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Linear``, in the type of ``x``."""
        return F.linear(x, self.weight.to(x.dtype) * self.weight_scale.to(x.dtype), self.bias)


def quantise_linears(network: nn.Module, kind: str) -> None:
    """Replace the linears of a transformer's blocks; their weights are then to be filled in."""
    for module, name in list(_linears(network)):
        setattr(module, name, QuantisedLinear(getattr(module, name), kind))


def quantised_names(network: nn.Module) -> set[str]:
    """The names of the weights that ``quantise_linears`` replaces."""
    owners = {id(module): name for name, module in network.named_modules()}
    return {f"{owners[id(module)]}.{name}.weight" for module, name in _linears(network)}


def quantised(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """A weight [out, in] in 8 bits and its scales [out, 1], float32."""
    dtype, most = TYPES[kind]
    rows = weight.float()
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
    scaled = (rows / scale).clamp_(-most, most)
    return (scaled.round_() if kind == "int8" else scaled).to(dtype), scale


def quantised_weights(
    tensors: Mapping[str, Weight], names: Collection[str], kind: str
) -> tuple[dict[str, Weight], dict[str, torch.dtype]]:
    """Weights with those of ``names`` in 8 bits and their scales, and the types of these."""
    found: dict[str, Weight] = {}
    types: dict[str, torch.dtype] = {}
    for name, weight in tensors.items():
        if name not in names:
            found[name] = weight
            continue
        for part, (own, width) in enumerate(((name, weight.shape[1]), (scale_name(name), 1))):
            found[own] = LazyTensor((len(weight), width), partial(_rows, weight, kind, part))
            types[own] = torch.float32 if part else TYPES[kind][0]
    return found, types


def scale_name(weight: str) -> str:
    """The name of the scales of a weight."""
    return f"{weight.rpartition('.')[0]}.{SCALE}"


def _rows(weight: Weight, kind: str, part: int, rows: slice) -> Tensor:
    return quantised(read(weight, "cpu", torch.float32, rows), kind)[part].float()


def _linears(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every linear of the blocks, by its owner and its name there."""
    for name, module in network.named_modules():
        if name.startswith("blocks."):
            for own, child in module.named_children():
                if type(child) is nn.Linear:
                    yield module, own
