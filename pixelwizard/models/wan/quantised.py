"""Float8 weights and their scales -> weights that are dequantised as they are read.

Source of the names: ComfyUI ``comfy/utils.py`` (``convert_old_quants``) and ``comfy/ops.py``. The
old form has a tensor ``scaled_fp8`` in the file and ``scale_weight`` beside each weight; the new
one has ``weight_scale``, and says the format in a tensor ``comfy_quant`` (JSON) beside the weight
or in the file's metadata. A weight is the float8 one times its scale; the scale of its input
serves float8 arithmetic, which is not used here. Float8 weights without any of this were cast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from pixelwizard.models.wan.lazy import LazyTensor, Weight, read

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
