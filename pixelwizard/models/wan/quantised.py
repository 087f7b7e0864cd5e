"""Linears of a transformer's blocks with their weights in 8 bits.

``backbone.quantize`` rounds them to int8 or float8 (e4m3), divided by a scale for every output,
which takes the largest value of the row to the largest of the type. The product runs in the type of
the input, so any device serves; nothing is faster, a block's weights take half the memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.models.wan.kernels import block_linears

TYPES = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}
"""The type of each kind, and the largest value that is used of it."""


class QuantisedLinear(nn.Module):
    """``nn.Linear`` with ``weight`` [out, in] in 8 bits and ``weight_scale`` [out, 1], frozen."""

    def __init__(self, linear: nn.Linear, kind: str) -> None:
        super().__init__()
        like, dtype = linear.weight, TYPES[kind][0]
        self.weight = nn.Parameter(torch.empty_like(like, dtype=dtype), requires_grad=False)
        self.weight_scale = nn.Parameter(like.new_empty(len(like), 1), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor, outputs: slice = slice(None)) -> Tensor:
        """As ``nn.Linear``, in the type of ``x``; only some ``outputs`` if asked."""
        scale = self.weight_scale[outputs].to(x.dtype)
        weight = self.weight[outputs].to(x.dtype).mul_(scale)  # one copy, not two
        return F.linear(x, weight, None if self.bias is None else self.bias[outputs])


def quantise_linears(network: nn.Module, kind: str) -> None:
    """Replace the linears of a network's blocks; their weights are then to be filled in."""
    for module, name in list(block_linears(network)):
        setattr(module, name, QuantisedLinear(getattr(module, name), kind))


def quantised_names(network: nn.Module) -> set[str]:
    """The names of the weights that ``quantise_linears`` replaces."""
    owners = {id(module): name for name, module in network.named_modules()}
    return {f"{owners[id(module)]}.{name}.weight" for module, name in block_linears(network)}


def quantised(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """A weight [out, in] in 8 bits and its scales [out, 1], float32."""
    dtype, most = TYPES[kind]
    rows = weight.float()
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
    scaled = (rows / scale).clamp_(-most, most)
    return (scaled.round_() if kind == "int8" else scaled).to(dtype), scale


def scale_name(weight: str) -> str:
    """The name of the scales of a weight."""
    return f"{weight.rpartition('.')[0]}.weight_scale"


def outputs_of(layer: nn.Module, x: Tensor, outputs: slice) -> Tensor:
    """Some outputs of a linear of tokens [B, L, E], plain or in 8 bits; without gradients."""
    if isinstance(layer, QuantisedLinear):
        return layer(x, outputs)
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight[outputs], layer.bias[outputs])
