"""What lies between attentions and convolutions: elementwise functions; and linears.

An elementwise function compiled by ``torch.compile`` is one kernel: it reads its arguments and
writes its results once. Uncompiled, the same code runs operation by operation.

Letters of shapes: B samples, L tokens, E model channels, N heads, D channels of a head.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from pixelwizard.models.wan.frames import Frames, Sum, Sums, activated, added, enlarged, entered
from pixelwizard.models.wan.quantised import QuantisedLinear
from pixelwizard.models.wan.reordered import ReorderedLinear, has_onednn, pointwise

Function = Callable[..., Any]


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm of tokens [B, L, E] without parameters, then x (1 + scale) + shift, in float32."""
    return torch.addcmul(shift, F.layer_norm(x.float(), x.shape[-1:], eps=eps), 1 + scale).to(dtype)


def normed_heads(x: Tensor, weight: Tensor, eps: float, heads: int, table: Tensor | None) -> Tensor:
    """RMS norm of tokens [B, L, E] over all heads together, rotated -> [B, L, N, D] like ``x``."""
    y = x.float()
    y = (y * inverse_rms(y, eps)).mul_(weight.float()).unflatten(-1, (heads, -1))
    return (y if table is None else rotate(y, table)).to(x.dtype)


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """What the RMS norm of tokens [B, L, E] multiplies each by, float32 [B, L, 1]."""
    norm = torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True)
    return torch.rsqrt(norm.square() / x.shape[-1] + eps)


def scaled_head(x: Tensor, scale: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """One head [B, L, D] of tokens normed by ``scale`` [B, L, 1], rotated -> [B, L, 1, D]."""
    return rotate((x.float() * scale * weight.float()).unsqueeze(2), table).to(x.dtype)


def rotate(x_BLND: Tensor, table_LP2: Tensor) -> Tensor:
    """Rotates each pair of adjacent channels of ``x``, float32, by its token's angle.

    Uncompiled, that is one product of complex numbers, for which torch.compile has no code.
    """
    pairs, table = x_BLND.unflatten(-1, (-1, 2)), table_LP2[:, None]
    if not torch.compiler.is_compiling():
        product = torch.view_as_complex(pairs) * torch.view_as_complex(table)
        return torch.view_as_real(product).flatten(-2)
    (even, odd), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def after_attention(
    x: Tensor, attended: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual stream in float32, and the input of the cross-attention like ``attended``."""
    x = torch.addcmul(x.float(), gate, attended.float())
    hidden = F.layer_norm(x, x.shape[-1:], weight.float(), bias.float(), eps)
    return x, hidden.to(attended.dtype)


def after_text(
    x: Tensor, attended: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual stream in float32, and the feed-forward's input like ``attended``."""
    x = x + attended
    return x, modulated(x, shift, scale, eps, attended.dtype)


def after_feed_forward(x: Tensor, fed: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
    """The residual stream as it waits for the next block."""
    return torch.addcmul(x, gate, fed.float()).to(dtype)


class Fused:
    """A function compiled at its first call, for all sizes at once.

    Where it cannot be compiled (no C++ compiler, no Triton) a warning says so once and the
    function runs as it is. A trace of costs sees one operation.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self._run: Function = torch.compile(function, dynamic=True)

    def __call__(self, *arguments: Any) -> Any:
        tensors = tuple(a for a in arguments if isinstance(a, Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(self, tensors, *arguments)
        if self._run is self.function:
            return self.function(*arguments)
        try:
            return self._run(*arguments)
        except Exception as error:  # every backend has its own errors
            self._run = self.function
            result = self.function(*arguments)  # an error of the arguments comes again here
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"{self.function.__name__} is not compiled: {reason}", stacklevel=2)
            return result


@dataclass(frozen=True)
class Kernels:
    """The elementwise functions of a block and of a frame, as they are or compiled."""

    modulated: Function = modulated
    normed_heads: Function = normed_heads
    inverse_rms: Function = inverse_rms
    scaled_head: Function = scaled_head
    after_attention: Function = after_attention
    after_text: Function = after_text
    after_feed_forward: Function = after_feed_forward
    activated: Function = activated
    added: Function = added
    entered: Function = entered
    enlarged: Function = enlarged

    def collected(self, parts: Iterable[Tensor]) -> Sum:
        """The parts of a frame: for compiled functions as they are, which add them when they read.

        Else each is added to the first as it comes, so that only one more is alive.
        """
        if isinstance(self.added, Fused):
            return tuple(parts)
        waiting = iter(parts)
        total = next(waiting)
        for part in waiting:
            total += part
            del part
        return (total,)

    def frames(self, sums: Sums) -> Frames:
        """The frames themselves."""
        return map(lambda parts: self.added(*parts) if len(parts) > 1 else parts[0], sums)


PLAIN = Kernels()


@cache
def compiled() -> Kernels:
    """All of them fused; one compilation serves every network, block and size of a process."""
    return Kernels(*(Fused(getattr(PLAIN, field.name)) for field in fields(Kernels)))


def chosen(compile: str, on_gpu: bool) -> Kernels:
    """The functions that ``compile`` (auto, on or off) means on a device."""
    return compiled() if compile == "on" or (compile == "auto" and on_gpu) else PLAIN


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
        return pointwise(x, weight, bias, gelu)
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
