"""Linears of a transformer's blocks, plain or with weights in another form: 8 bits, oneDNN's order.

``backbone.quantize`` rounds them to int8 or float8 (e4m3), divided by a scale for every output,
which takes the largest value of the row to the largest of the type. The product runs in the type of
the input, so any device serves; nothing is faster, a block's weights take half the memory.

A network that stays on a processor has them in the order in which oneDNN reads them. From a plain
weight oneDNN makes such a copy in every call.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(layer: nn.Module, x: Tensor, gelu: bool = False) -> Tensor:
    """A linear of tokens [B, L, E], then tanh GELU if asked.

    Without gradients a CPU takes oneDNN, a tenth faster than its default for float32, and a GPU
    the epilogue of cuBLASLt: there GELU needs no pass and no memory.
    """
    if isinstance(layer, ReorderedLinear):
        return layer(x, gelu)
    if torch.is_grad_enabled() or type(layer) is not nn.Linear or layer.bias is None:
        return F.gelu(layer(x), approximate="tanh") if gelu else layer(x)
    weight, bias = layer.weight, layer.bias
    same = x.dtype == weight.dtype
    if x.device.type == "cpu" and same and has_onednn(x.dtype):
        return _pointwise(x, weight, bias, gelu)
    if gelu and x.device.type in ("cuda", "meta") and same:
        y = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
        return y.unflatten(0, x.shape[:-1])
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


def outputs_of(layer: nn.Module, x: Tensor, outputs: slice) -> Tensor:
    """Some outputs of a linear of tokens [B, L, E], plain or in 8 bits; without gradients."""
    if isinstance(layer, QuantisedLinear):
        return layer(x, outputs)
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight[outputs], layer.bias[outputs])


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
    return f"{weight.rpartition('.')[0]}.{SCALE}"


def block_linears(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every linear of the blocks (transformers' T5: ``block``), by its owner and its name there."""
    for name, module in network.named_modules():
        if name.startswith(("blocks.", "block.")):
            for own, child in module.named_children():
                if type(child) is nn.Linear:
                    yield module, own


class ReorderedLinear(nn.Module):
    """``nn.Linear`` with a frozen weight of float32 or bfloat16 in oneDNN's order.

    The weight, a buffer, has its shape [out, in] and its type, but elements cannot be read from it.
    """

    weight: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.register_buffer("weight", weight, persistent=False)
        self.bias = linear.bias

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """As ``nn.Linear``, for an input of the weight's type; then tanh GELU if asked."""
        return _pointwise(x, self.weight, self.bias, gelu)


def reorder_linears(network: nn.Module) -> None:
    """Replace the linears of a transformer's blocks, one at a time, where oneDNN has their type."""
    for module, name in list(block_linears(network)):
        linear = getattr(module, name)
        if has_onednn(linear.weight.dtype):
            setattr(module, name, ReorderedLinear(linear))


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
    """A linear by oneDNN, then tanh GELU if asked, without gradients."""
    after, how = ("gelu", "tanh") if gelu else ("none", "")
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], how)
    return result


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN has linears of this type here: in bfloat16 not on every processor."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16())
