"""Tensors in files: memory-mapped when read, under their official names, written one by one.

Reading takes no memory but the page cache: safetensors and ``.pt`` files are mapped, and pages
are read on use. Writing holds one tensor at a time and is atomic.

Layouts differ only in the names of equal tensors, so a layout is a short list of rules. Source of
the names: diffusers' ``WanTransformer3DModel`` and ``AutoencoderKLWan``; those of the text encoder
are in ``umt5.py``.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pixelwizard.io.files import atomic
from pixelwizard.io.terminal import reason
from pixelwizard.models.checkpoints import weight_files
from pixelwizard.models.wan.umt5 import official_names

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
# Segments that trainers and wrappers put into names; no published name has them.
_WRAPPERS = {"model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file, the shards of an index, or a pickle of tensors into memory.

    A pickle is read without running any code of it. Raises ValueError for a broken file and for a
    name that two shards hold.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            part = _read_pickle(file) if file.suffix in PICKLES else load_file(file)
        except (SafetensorError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            why = reason(error)
            raise ValueError(f"{file} cannot be read, it may be truncated: {why}") from error
        if twice := sorted(tensors.keys() & part.keys()):
            raise ValueError(f"{file} holds {twice[0]}, and so does another shard of {path.name}")
        tensors.update(part)
    return tensors


def unwrap(loaded: Mapping[str, object], path: Path, ema: str = "auto") -> dict[str, Tensor]:
    """Take the weights out of a trainer's container and clean their names.

    ``ema``: ``true`` and ``false`` choose the averaged or the last weights and refuse a container
    without them; ``auto`` takes the averaged ones if the file has them. A ``.pt`` that is no
    container has one set of weights, and ``true`` refuses it; other files leave no choice.
    """
    if "generator" in loaded or "generator_ema" in loaded:
        loaded = _chosen(loaded, path, ema)
    elif ema == "true" and path.suffix in PICKLES:
        raise ValueError(f"{path} holds no averaged weights, but backbone.ema=true asks for them")
    tensors: dict[str, Tensor] = {}
    for name, value in loaded.items():
        cleaned = ".".join(word for word in name.split(".") if word not in _WRAPPERS)
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} is not a checkpoint of weights: {name} is not a tensor")
        if cleaned in tensors:
            raise ValueError(f"{path} holds {cleaned} twice, under different prefixes")
        tensors[cleaned] = value
    return tensors


def save(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write tensors as one safetensors file in ``dtype``, names cleaned of wrappers."""
    cleaned = unwrap(tensors, path)
    size = sum(tensor.numel() for tensor in cleaned.values()) * dtype.itemsize
    with atomic(path, size) as part:
        _write_safetensors(part, cleaned, dtype)


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


def _read_pickle(path: Path) -> dict[str, Any]:
    loaded = torch.load(
        path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
    )
    if not isinstance(loaded, dict):
        raise ValueError(
            f"{path} is not a checkpoint of weights: it holds a {type(loaded).__name__}"
        )
    return loaded


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """The format of safetensors: the header's length, the header, the bytes; a tensor at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * dtype.itemsize
        shape = list(tensor.shape)
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            _write_bytes(file, tensor.detach().to("cpu", dtype))
        file.flush()
        os.fsync(file.fileno())


def _write_bytes(file: BinaryIO, tensor: Tensor) -> None:
    flat = tensor.contiguous().reshape(-1)
    if flat.numel():
        file.write(memoryview(flat.view(torch.uint8).numpy()))


Rules = Sequence[tuple[str, str]]
EMBEDDING = "encoder.embed_tokens.weight"

_DIT: Rules = (
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^(blocks\.\d+\.)attn1\.", r"\1self_attn."),
    (r"^(blocks\.\d+\.)attn2\.", r"\1cross_attn."),
    (r"(_attn\.)to_([qkv])\.", r"\1\2."),
    (r"(_attn\.)to_out\.0\.", r"\1o."),
    (r"^(blocks\.\d+\.)norm2\.", r"\1norm3."),
    (r"^(blocks\.\d+\.ffn\.)net\.0\.proj\.", r"\g<1>0."),
    (r"^(blocks\.\d+\.ffn\.)net\.2\.", r"\g<1>2."),
    (r"^(blocks\.\d+\.)scale_shift_table$", r"\1modulation"),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
)
_VAE: Rules = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"coder\.norm_out\.", "coder.head.0."),
    (r"coder\.conv_out\.", "coder.head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.(down|up)_blocks\.(\d+)\.resnets\.", r".\1samples.\2.\1samples."),
    (r"\.norm1\.", ".residual.0."),
    (r"(middle\.\d|samples\.\d+)\.conv1\.", r"\1.residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def official_dit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's tensors under their official names; those that have them stay as they are."""
    if not _any_starts(tensors, "condition_embedder."):
        return dict(tensors)
    return _renamed(tensors, lambda name: _apply(_DIT, name))


def official_vae(tensors: Mapping[str, Tensor], num_res_blocks: int) -> dict[str, Tensor]:
    """An autoencoder's tensors under their official names.

    There the resampling layer of a level follows its ``num_res_blocks`` residual blocks (one more
    in the decoder); diffusers gives it a separate name.
    """
    if not _any_starts(tensors, "quant_conv."):
        return dict(tensors)
    down, up = num_res_blocks, num_res_blocks + 1
    rules = (
        *_VAE,
        (r"\.down_blocks\.(\d+)\.downsampler\.", rf".downsamples.\1.downsamples.{down}."),
        (r"\.up_blocks\.(\d+)\.upsampler\.", rf".upsamples.\1.upsamples.{up}."),
    )
    return _renamed(tensors, lambda name: _apply(rules, name))


def official_text(tensors: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """A text encoder's tensors under their official names; the embedding may be there twice."""
    if not _any_starts(tensors, "encoder."):
        return dict(tensors)
    names = {other: official for official, other in official_names(num_layers).items()}
    once = dict(tensors)
    embedding = once.pop(EMBEDDING, None)
    if embedding is not None:
        once.setdefault("shared.weight", embedding)
    return _renamed(once, lambda name: names.get(name, name))


def _any_starts(names: Iterable[str], beginning: str) -> bool:
    return any(name.startswith(beginning) for name in names)


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): tensor for name, tensor in tensors.items()}
