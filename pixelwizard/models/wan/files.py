"""Weights in files: memory-mapped when read, written one by one, atomically.

Reading takes no memory but the page cache: safetensors, ``.pt`` and GGUF files are mapped, and
pages are read on use; quantised weights are computed then. Writing holds one tensor at a time.
A file gets its name only when it is complete.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pixelwizard.io.files import atomic
from pixelwizard.io.terminal import reason
from pixelwizard.models.checkpoints import PICKLES, weight_files
from pixelwizard.models.wan.gguf_file import read_gguf
from pixelwizard.models.wan.layouts import without_prefix
from pixelwizard.models.wan.quantised import LazyTensor, Weight, dequantised, read

# Segments that trainers and wrappers put into names; no published name has them.
_WRAPPERS = {"model", "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_BEGINNINGS = {
    b"version https://git-lfs": "is a pointer of Git LFS in place of the file; run: git lfs pull",
    b"<!DOCTYPE": "is a web page in place of the file; fetch it again",
    b"<html": "is a web page in place of the file; fetch it again",
}
"""What files begin with that are no weights, and what they are."""
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_DTYPES |= {torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3"}
_ALIGNMENT = 8
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
    for letters, what in _BEGINNINGS.items():
        if beginning.startswith(letters):
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
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor, dtype in tensors.values():
            _write_bytes(file, read(tensor, "cpu", dtype))
        file.flush()
        os.fsync(file.fileno())


def _write_bytes(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.contiguous().reshape(-1)
    if flat.numel():
        file.write(memoryview(flat.view(torch.uint8).numpy()))
