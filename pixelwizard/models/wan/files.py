"""Weights in files: memory-mapped or computed when read, written one by one, atomically.

Reading takes no memory but the page cache: safetensors, ``.pt`` and GGUF files are mapped, and
pages are read on use; quantised weights are computed then, in blocks of rows (the first axis), in
float32, and rounded once into the wanted type, so neither a whole network nor a whole weight is
ever in memory twice. Writing holds one tensor at a time. A file gets its name only when it is
complete.

Source of the names in float8 files: ComfyUI ``comfy/utils.py`` (``convert_old_quants``) and
``comfy/ops.py``. The old form has a tensor ``scaled_fp8`` in the file and ``scale_weight`` beside
each weight; the new one has ``weight_scale``, and says the format in a tensor ``comfy_quant``
(JSON) beside the weight or in the file's metadata. A weight is the float8 one times its scale; the
scale of its input serves float8 arithmetic, which is not used here. Float8 weights without any of
this were cast.

GGUF files are read by the ``gguf`` package. A tensor's shape is stored reversed, and its rows are
quantised in blocks, so any rows can be dequantised alone. Source of the conventions:
city96/ComfyUI-GGUF ``loader.py`` and ``tools/convert.py``: transformers have their official names,
text encoders those of llama.cpp (``layouts.py``); a tensor that was reshaped for its quantisation
has its shape in the metadata.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.types import Device

from pixelwizard.io.files import atomic
from pixelwizard.io.terminal import reason
from pixelwizard.models.checkpoints import PICKLES, not_weights, weight_files
from pixelwizard.models.wan.layouts import without_prefix

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
        self.rows = rows
        self._step = max(1, VALUES // max(1, math.prod(self.shape[1:])))

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def to(self, device: Device, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
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
            yield first, self.rows(slice(first, min(first + self._step, len(self))))


Weight = Union[Tensor, LazyTensor]
"""A weight of a file, mapped or computed."""


def read(weight: Weight, device: Device, dtype: torch.dtype, rows: slice | None = None) -> Tensor:
    """A weight, or a copy of some ``rows`` of it, on ``device`` in ``dtype``.

    A mapped weight that already has both stays mapped.
    """
    if isinstance(weight, LazyTensor):
        return weight.to(device, dtype, rows or slice(None))
    weight = weight.detach()
    if rows is None:
        return weight.to(device, dtype)
    return weight[rows].to(device, dtype, copy=True)


# Segments that trainers and wrappers put into names; no published name has them.
_WRAPPERS = {"model", "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_DTYPES |= {torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3"}
_GGUF, _PICKLED = b"GGUF", (b"PK\x03\x04", b"\x80\x02")


def open_weights(path: Path, part: str, ema: str = "auto") -> dict[str, Weight]:
    """The weights of a ``part`` (of ``layouts.PREFIXES``) in any file, under the names of a layout.

    ``ema`` as for ``unwrap``. Raises ValueError for a file that is broken or cannot be read.
    """
    loaded = dequantised(unwrap(read_tensors(path), path, ema), path, read_metadata(path))
    try:
        return without_prefix(loaded, part)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_tensors(path: Path) -> dict[str, Any]:
    """Map a file of weights, the shards of an index, or a pickle of tensors into memory.

    The content says what a file is: safetensors, a pickle (read without running any code of it)
    or GGUF. Raises ValueError for a broken file and for a name that two shards hold.
    """
    tensors: dict[str, Any] = {}
    for file in weight_files(path):
        try:
            part = _read(file)
        except (SafetensorError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            why = reason(error)
            raise ValueError(f"{file} cannot be read, it may be truncated: {why}") from error
        if twice := sorted(tensors.keys() & part.keys()):
            raise ValueError(f"{file} holds {twice[0]}, and so does another shard of {path.name}")
        tensors.update(part)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, or of the first shard; other files have none."""
    file = weight_files(path)[0]
    if _is_pickle(file) or _beginning(file).startswith(_GGUF):
        return {}
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def unwrap(loaded: Mapping[str, object], path: Path, ema: str = "auto") -> dict[str, Weight]:
    """Take the weights out of a trainer's container and clean their names.

    ``ema``: ``true`` and ``false`` choose the averaged or the last weights and refuse a container
    without them; ``auto`` takes the averaged ones if the file has them. A ``.pt`` that is no
    container has one set of weights, and ``true`` refuses it; other files leave no choice.
    """
    if "generator" in loaded or "generator_ema" in loaded:
        loaded = _chosen(loaded, path, ema)
    elif ema == "true" and path.suffix in PICKLES:
        raise ValueError(f"{path} holds no averaged weights, but backbone.ema=true asks for them")
    tensors: dict[str, Weight] = {}
    for name, value in loaded.items():
        cleaned = ".".join(word for word in name.split(".") if word not in _WRAPPERS)
        if not isinstance(value, (Tensor, LazyTensor)):
            raise ValueError(f"{path} is not a checkpoint of weights: {name} is not a tensor")
        if cleaned in tensors:
            raise ValueError(f"{path} holds {cleaned} twice, under different prefixes")
        tensors[cleaned] = value
    return tensors


def save(
    tensors: Mapping[str, Weight],
    path: Path,
    dtype: torch.dtype,
    metadata: Mapping[str, str] | None = None,
    types: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Write weights as one safetensors file, names cleaned of wrappers.

    They have the type ``dtype``, those named in ``types`` their own.
    """
    cleaned = unwrap(tensors, path)
    written = {name: (weight, (types or {}).get(name, dtype)) for name, weight in cleaned.items()}
    size = sum(weight.numel() * kind.itemsize for weight, kind in written.values())
    with atomic(path, size) as part:
        _write_safetensors(part, written, {"format": "pt", **(metadata or {})})


def save_pickle(value: object, path: Path) -> None:
    """Write what ``torch.load`` reads without running code; raises OSError if there is no space."""
    with atomic(path) as part, open(part, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # what torch makes of a failed write
            raise OSError(reason(error)) from error
        file.flush()
        os.fsync(file.fileno())


def _chosen(container: Mapping[str, object], path: Path, ema: str) -> Mapping[str, object]:
    """One of the two sets of weights in a trainer's container."""
    wanted = {"true": ("generator_ema",), "false": ("generator",)}
    keys = wanted.get(ema, ("generator_ema", "generator"))
    found = next((container[key] for key in keys if container.get(key)), None)
    if found is None:
        there = " and ".join(key for key in ("generator", "generator_ema") if container.get(key))
        raise ValueError(
            f"{path} has no {' or '.join(keys)}, but {there or 'empty ones'}; backbone.ema={ema}"
        )
    return found if isinstance(found, Mapping) else {"the weights": found}


def _read(file: Path) -> dict[str, Any]:
    beginning = _beginning(file)
    if what := not_weights(file):
        raise ValueError(f"{file} {what}")
    if beginning.startswith(_GGUF):
        return read_gguf(file)
    return _read_pickle(file) if _is_pickle(file) else load_file(file)


def _is_pickle(file: Path) -> bool:
    """By what it begins with, a zip archive or the pickle of old files; else by its name."""
    beginning = _beginning(file)
    if beginning[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
        return False
    return beginning.startswith(_PICKLED) or file.suffix in PICKLES


def _beginning(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(32)


def _read_pickle(path: Path) -> dict[str, Any]:
    loaded = torch.load(
        path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
    )
    if not isinstance(loaded, dict):
        raise ValueError(
            f"{path} is not a checkpoint of weights: it holds a {type(loaded).__name__}"
        )
    return loaded


def _write_safetensors(
    path: Path, tensors: Mapping[str, tuple[Weight, torch.dtype]], metadata: Mapping[str, str]
) -> None:
    """The format of safetensors: the header's length, the header, the bytes; a tensor at a time."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (tensor, dtype) in tensors.items():
        start, end = end, end + tensor.numel() * dtype.itemsize
        shape = list(tensor.shape)
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the bytes are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor, dtype in tensors.values():
            flat = read(tensor, "cpu", dtype).contiguous().reshape(-1)
            if flat.numel():
                file.write(memoryview(flat.view(torch.uint8).numpy()))
        file.flush()
        os.fsync(file.fileno())


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
    for layer, kind in _formats(tensors, path, metadata).items():
        if kind not in _FORMATS:
            raise ValueError(
                f"{path} is quantised as {kind} ({layer}), which cannot be read; take the version"
                " in fp16, bf16, fp8 (one scale a weight) or GGUF"
            )
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


ARCHITECTURES = ("wan", "t5", "t5encoder")
_ARCHITECTURE, _SHAPE = "general.architecture", "comfy.gguf.orig_shape."


def read_gguf(path: Path) -> dict[str, Weight]:
    """The weights of a GGUF file by their names in it.

    Raises ValueError for a broken file, another kind of network, and without the package.
    """
    try:
        import gguf
    except ImportError:
        raise ValueError(
            f"{path} is a GGUF file, which needs the package gguf: pip install 'pixelwizard[files]'"
        ) from None
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        weights = {tensor.name: _weight(tensor, fields) for tensor in reader.tensors}
    except NotImplementedError as error:  # it says which type
        raise ValueError(f"{path} cannot be read: {reason(error)}") from None
    except Exception as error:  # of a broken file the package raises whatever its bytes lead to
        raise ValueError(f"{path} cannot be read, it may be truncated: {reason(error)}") from error
    if not weights:
        raise ValueError(f"{path} is a GGUF file without tensors: fetch it again")
    architecture = fields.get(_ARCHITECTURE, "unnamed")
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{path} is a GGUF file of the architecture {architecture}, not of Wan's transformer"
            " (wan) or its text encoder (t5, t5encoder)"
        )
    return weights


def _weight(tensor: Any, fields: dict[str, Any]) -> Weight:
    import gguf

    def rows(some: slice) -> Tensor:
        values = gguf.quants.dequantize(tensor.data[some], tensor.tensor_type)
        return torch.from_numpy(values.copy())

    stored = [int(size) for size in reversed(tensor.shape)]
    shape = fields.get(_SHAPE + tensor.name, stored)
    if shape != stored:  # rows of the file are not rows of the weight
        return rows(slice(None)).view(shape)
    rows(slice(0, 1))  # refuses a type that cannot be read
    return LazyTensor(shape, rows)
