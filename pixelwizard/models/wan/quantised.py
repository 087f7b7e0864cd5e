"""Weights that are computed as they are read, and weights of 8 bits in files and in networks.

Weights are computed in blocks of rows (the first axis), in float32, and rounded once into the
wanted type, so neither a whole network nor a whole weight is ever there twice.

Source of the names in float8 files: ComfyUI ``comfy/utils.py`` (``convert_old_quants``) and
``comfy/ops.py``. The old form has a tensor ``scaled_fp8`` in the file and ``scale_weight`` beside
each weight; the new one has ``weight_scale``, and says the format in a tensor ``comfy_quant``
(JSON) beside the weight or in the file's metadata. A weight is the float8 one times its scale; the
scale of its input serves float8 arithmetic, which is not used here. Float8 weights without any of
this were cast.

``backbone.quantize`` rounds the linears of transformer blocks to int8 or float8 (e4m3), divided by
a scale for every output, which takes the largest value of the row to the largest of the type. The
product runs in the type of the input, so any device serves; nothing is faster, a block's weights
take half the memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VALUES = 1 << 22
"""How many values are computed together: 16 MB in float32."""


class LazyTensor:
    """A weight of a file that is computed when it is read.

    ``rows`` gives some rows of the first axis as float32 on the CPU. The blocks do not depend on
    what is asked for, so every reader gets the same bits: a whole network, or a rank's slice.
    """

    dtype = torch.float32

    def __init__(self, shape: Sequence[int], rows: Callable[[slice], Tensor]) -> None:
        self.shape = torch.Size(shape)
        self._rows = rows
        self._step = max(1, VALUES // max(1, math.prod(self.shape[1:])))

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def to(
        self, device: torch.device | str, dtype: torch.dtype, rows: slice = slice(None)
    ) -> Tensor:
        """The weight, or some neighbouring ``rows`` of it, computed."""
        start, stop, _ = rows.indices(len(self))
        count = max(0, stop - start)
        made = torch.empty((count, *self.shape[1:]), dtype=dtype, device=device)
        for first, block in self._blocks(start, stop):
            low, high = max(start, first), min(stop, first + len(block))
            made[low - start : high - start] = block[low - first : high - first]
        return made

    def __getitem__(self, rows: slice) -> Tensor:
        return self.to("cpu", torch.float32, rows)

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """The first row and the values of every block that overlaps start..stop."""
        for first in range(start - start % self._step, stop, self._step):
            yield first, self._rows(slice(first, min(first + self._step, len(self))))


Weight = Union[Tensor, LazyTensor]
"""A weight of a file, mapped or computed."""


def read(
    weight: Weight, device: torch.device | str, dtype: torch.dtype, rows: slice | None = None
) -> Tensor:
    """A weight on ``device`` in ``dtype``; some ``rows`` of it are a copy.

    A mapped one that is there already stays mapped.
    """
    if isinstance(weight, LazyTensor):
        return weight.to(device, dtype, rows or slice(None))
    weight = weight.detach()
    if rows is None:
        return weight.to(device, dtype)
    return weight[rows].to(device, dtype, copy=True)


FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
METADATA = "_quantization_metadata"
_FORMATS = ("float8_e4m3fn", "float8_e5m2")
_MARKER, _FORMAT = "scaled_fp8", "comfy_quant"
_SCALES = ("scale_weight", "weight_scale")
_UNUSED = ("scale_input", "input_scale", _MARKER, _FORMAT, "spiece_model", *_SCALES)
"""Last words of names that are no weights; ``spiece_model`` is a tokenizer in a text encoder."""


def dequantised(
    tensors: Mapping[str, Weight], path: Path, metadata: Mapping[str, str]
) -> dict[str, Weight]:
    """The weights of a file without its scales; those that have one are computed on reading.

    Raises ValueError for another format than float8 with one scale a weight, and for float8
    weights that lost their scales: cast without them they would make noise.
    """
    _refuse_formats(tensors, path, metadata)
    scales = {
        f"{name.rpartition('.')[0]}.weight": value
        for name, value in tensors.items()
        if _last(name) in _SCALES
    }
    scaled = bool(scales) or any(_last(name) in (_MARKER, _FORMAT) for name in tensors)
    found: dict[str, Weight] = {}
    for name, weight in tensors.items():
        if _last(name) in _UNUSED:
            continue
        if name in scales:
            weight = _scaled(name, weight, scales.pop(name), path)
        elif scaled and weight.dtype in FLOAT8:
            raise ValueError(
                f"{path} has scaled float8 weights, but no scale for {name}: it is not complete,"
                " fetch it again"
            )
        found[name] = weight
    if scales:
        raise ValueError(f"{path} has a scale for {next(iter(scales))}, but not that weight")
    return found


def _refuse_formats(tensors: Mapping[str, Weight], path: Path, metadata: Mapping[str, str]) -> None:
    for layer, kind in _formats(tensors, path, metadata).items():
        if kind not in _FORMATS:
            raise ValueError(
                f"{path} is quantised as {kind} ({layer}), which cannot be read; take the version"
                " in fp16, bf16, fp8 (one scale a weight) or GGUF"
            )


def _formats(
    tensors: Mapping[str, Weight], path: Path, metadata: Mapping[str, str]
) -> dict[str, str]:
    """The formats that a file states, by the names of its layers."""
    try:
        layers = json.loads(metadata.get(METADATA, "{}")).get("layers", {})
        found = {name: layer["format"] for name, layer in layers.items()}
        for name, tensor in tensors.items():
            if _last(name) == _FORMAT:
                text = bytes(tensor[:].tolist()).decode()
                found[name.rpartition(".")[0]] = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} does not say how it is quantised: it is damaged") from None
    return found


def _scaled(name: str, weight: Weight, scale: Weight, path: Path) -> Weight:
    """An 8-bit weight times its scale, one for all or one a row; others keep a scale of 1."""
    if scale.numel() == len(weight) > 1:
        factors = read(scale, "cpu", torch.float32).reshape(-1, *[1] * (len(weight.shape) - 1))
        return LazyTensor(weight.shape, lambda rows: weight[rows].float() * factors[rows])
    if scale.numel() != 1:
        raise ValueError(
            f"{path} has {scale.numel()} scales for {name}, not one: take the version in fp16,"
            " bf16, fp8 (one scale a weight) or GGUF"
        )
    factor = float(scale)  # type: ignore[arg-type]
    if weight.dtype not in FLOAT8 and factor == 1:
        return weight
    return LazyTensor(weight.shape, lambda rows: weight[rows].float() * factor)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


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


def block_linears(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every linear of the blocks (transformers' T5: ``block``), by its owner and its name there."""
    for name, module in network.named_modules():
        if name.startswith(("blocks.", "block.")):
            for own, child in module.named_children():
                if type(child) is nn.Linear:
                    yield module, own
