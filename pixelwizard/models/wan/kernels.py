"""What lies between attentions and convolutions: elementwise functions, rotary angles, linears.

An elementwise function compiled by ``torch.compile`` is one kernel: it reads its arguments and
writes its results once. Uncompiled, the same code runs operation by operation.

The autoencoder's frames [B, C, H, W] and weights lie with their channels last in memory
(``torch.channels_last``). The three taps of a convolution in time are three 2-D convolutions, whose
results are added up where the sum is used.

Letters of shapes: B samples, L tokens, E model channels, N heads, D channels of a head.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from pixelwizard.models.attention.base import Grid

Function = Callable[..., Any]
Sum = tuple[Tensor, ...]
"""Tensors ``[B, C, H, W]`` that make a frame together; adding may overwrite the first of them."""
Sums = Iterator[Sum]
"""The frames of a clip in order of time, each as a sum."""
Frames = Iterator[Tensor]
"""The frames ``[B, C, H, W]`` of a clip in order of time."""


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


def activated(gamma: Tensor, *parts: Tensor) -> Tensor:
    """RMS norm of the sum over its channels, times ``gamma`` [C], then SiLU."""
    x = sum(parts[1:], parts[0])
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12)
    y = (x / length).mul_(len(gamma) ** 0.5 * gamma.view(-1, 1, 1))
    return F.silu(y, inplace=True)


def added(total: Tensor, *parts: Tensor) -> Tensor:
    """The sum, in place of the first part."""
    for part in parts:
        total += part
    return total


def entered(gamma: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
    """The sum, and ``activated`` of it."""
    x = added(*parts)
    return x, activated(gamma, x)


def enlarged(phases: Tensor, source: Tensor, place: int, time: int) -> Tensor:
    """A frame [B, C, 2H, 2W] from the ``phases`` of its pixels, plus repeated channels.

    ``phases`` [B, 4C, H+1, W+1]: for each row and column of a square of 2 x 2 pixels, see
    ``phase_weights``. ``source`` [B, D, H, W]: its channels, repeated, fill the squares of ``time``
    frames, of which this is number ``place`` (Wan2.2 ``DupUp3D``).
    """
    batch, dim, height, width = source.shape
    out = phases.shape[1] // 4
    if dim < out:
        source = source.repeat_interleave(out // dim, dim=1)
    every = source.shape[1] // out
    y = phases.new_empty(batch, 2 * height, 2 * width, out).permute(0, 3, 1, 2)
    for number, (row, column) in enumerate(product(range(2), repeat=2)):
        first = (4 * place + number) * every // (4 * time)
        phase = phases[:, number * out : (number + 1) * out, row:, column:]
        y[:, :, row::2, column::2] = phase[:, :, :height, :width] + source[:, first::every]
    return y


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
        """The parts of a frame, left apart for compiled functions, which add them as they read.

        Otherwise each part is added to the first as it arrives, so only one more is alive.
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
    """The functions that ``compile`` (auto, on or off) selects on a device."""
    return compiled() if compile == "on" or (compile == "auto" and on_gpu) else PLAIN


def phase_weights(weight: Tensor) -> Tensor:
    """A 3 x 3 convolution [O, I, 3, 3] of a frame enlarged by 2 as 2 x 2 ones of the frame itself.

    Two of three taps meet the same pixel, so their weights add up. Returns [4O, I, 2, 2] for the
    upper left, upper right, lower left and lower right pixel of each square; with a padding of 1
    they give ``phases``.
    """
    x = weight.float()
    for dim in (-1, -2):
        a, b, c = x.unbind(dim)
        x = torch.stack([torch.stack(pair, dim) for pair in ((a, b + c), (a + b, c))])
    return channels_last(x.flatten(0, 2).to(weight.dtype))


def taps(conv: nn.Conv3d, window: Sequence[Tensor], out: slice = slice(None), **how: Any) -> Frames:
    """What each frame of the window, the oldest first, adds to its last one's output.

    Missing frames are zero. A frame that has been used may leave the window.
    """
    weight = conv.weight[out]
    bias = None if conv.bias is None else conv.bias[out]
    for age in range(len(window), 0, -1):
        yield F.conv2d(window[-age], weight[:, :, -age], bias if age == 1 else None, **how)


def lay_out(conv: nn.Conv2d | nn.Conv3d) -> None:
    """Lay a convolution's weight out with its channels last and the taps in time apart."""
    weight = conv.weight.data
    if weight.ndim == 5:
        conv.weight.data = weight.permute(2, 0, 3, 4, 1).contiguous().permute(1, 4, 0, 2, 3)
    else:
        conv.weight.data = channels_last(weight)


def alone(frames: Frames) -> Sums:
    """Frames as sums of one part."""
    return map(lambda frame: (frame,), frames)


def channels_last(x: Tensor) -> Tensor:
    """The same frames or 2-D weights with channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


class Rotary:
    """Angles of the tokens of a (T, H, W) grid, put together for the tokens that are asked for.

    The pairs of channels are split over (frame, height, width) as c - 2 (c // 3), c // 3, c // 3
    with c = D/2; each axis has base 10000 (Wan2.2 ``rope_params``) and its own small table.
    ``own``: the tokens of this rank, counted from the first of them. ``kept``: those of all own
    tokens are put together once, as every block asks for them.
    """

    def __init__(
        self, grid: Grid, head_dim: int, device: torch.device, own: slice, kept: bool = True
    ) -> None:
        self.grid, self.device, self.own, self.kept = grid, device, own, kept
        third = head_dim // 2 // 3
        pairs = (head_dim // 2 - 2 * third, third, third)
        with torch.inference_mode(False):
            self.axes = [
                _axis_table(size, count).to(device) for size, count in zip(grid, pairs, strict=True)
            ]
        self._whole: Tensor | None = None

    def table(self, start: int, stop: int) -> Tensor:
        """cos and sin of the angles of tokens start..stop, float32 [stop - start, D/2, 2]."""
        if not self.kept:
            return self._together(start, stop)
        if self._whole is None:
            self._whole = self._together(0, self.own.stop - self.own.start)
        return self._whole[start:stop]

    def _together(self, start: int, stop: int) -> Tensor:
        first = self.own.start
        with torch.inference_mode(False):  # a kept table must also serve a later backward
            token = torch.arange(first + start, first + stop, device=self.device)
            row = token // self.grid[2]
            places = (row // self.grid[1], row % self.grid[1], token % self.grid[2])
            parts = [axis[place] for axis, place in zip(self.axes, places, strict=True)]
            return torch.cat(parts, dim=1)


def _axis_table(size: int, pairs: int) -> Tensor:
    """cos and sin of one axis' angles, float32 [size, pairs, 2]."""
    frequency = 10000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angle = torch.outer(torch.arange(size, dtype=torch.float64), frequency)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


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


def block_linears(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every linear of the blocks (transformers' T5: ``block``), by its owner and its name there."""
    for name, module in network.named_modules():
        if name.startswith(("blocks.", "block.")):
            for own, child in module.named_children():
                if type(child) is nn.Linear:
                    yield module, own


class ReorderedLinear(nn.Module):
    """``nn.Linear`` with a frozen weight of float32 or bfloat16 in the order that oneDNN reads.

    From a plain weight oneDNN makes such a copy in every call.
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
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], how)


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN has linears of this type here: in bfloat16 not on every processor."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bfloat16())
