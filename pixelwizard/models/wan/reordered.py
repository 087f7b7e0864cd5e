"""Linears of a network that stays on a processor: weights in the order in which oneDNN reads them.

From a plain weight oneDNN makes such a copy in every call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelwizard.models.wan.quantised import block_linears


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
        return pointwise(x, self.weight, self.bias, gelu)


def reorder_linears(network: nn.Module) -> None:
    """Replace the linears of a transformer's blocks, one at a time, where oneDNN has their type."""
    for module, name in list(block_linears(network)):
        linear = getattr(module, name)
        if has_onednn(linear.weight.dtype):
            setattr(module, name, ReorderedLinear(linear))


def pointwise(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool) -> Tensor:
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
