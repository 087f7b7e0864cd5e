"""Weight files -> networks, and back: every layout becomes one state dict under the official names.

Networks are built on the meta device and take over memory-mapped tensors, cast one by one, so that
loading needs little more memory than the network itself. Nothing is ever loaded in part: the names
and shapes of a file have to be exactly those of the network. Loaded networks are frozen and in
evaluation mode; training turns that back with ``train()`` and ``requires_grad_()``.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixelwizard.checkpoints import (
    CONFIG,
    NAMES,
    TOKENIZER,
    find_weights,
    require_weights,
    weight_files,
    weights_digest,
    weights_folder,
)
from pixelwizard.settings import BackboneSettings
from pixelwizard.wan.dit import WanDiT
from pixelwizard.wan.umt5 import TextEncoder, load_tokenizer
from pixelwizard.wan.vae import WanVAE

__all__ = [
    "load_anchor",
    "load_text_encoder",
    "load_vae",
    "require_weights",
    "save_anchor",
    "save_text_encoder",
    "save_vae",
    "weights_digest",
]

Network = TypeVar("Network", bound=nn.Module)

# Segments that trainers and wrappers put into names; no published name has them.
_WRAPPERS = {"model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
_NAMED = 3  # how many differing names an error lists


def load_anchor(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WanDiT:
    """Load the anchor network. Raises ValueError if its files are missing, broken or others'."""
    path = find_weights(backbone, "anchor")
    if not backbone.anchor:
        check_config(path.parent / CONFIG, backbone)
    tensors = unwrap(read_tensors(path), path)
    if has_adapter(tensors):
        raise ValueError(f"{path} is a detail network (it has a spatial adapter), not an anchor")
    with torch.device("meta"):
        network = WanDiT(backbone.dit)
    return fill(network, tensors, path, device, dtype)


def load_vae(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WanVAE:
    """Load the video autoencoder. Raises ValueError if its file is missing, broken or another's."""
    path = find_weights(backbone, "vae")
    with torch.device("meta"):
        network = WanVAE(backbone.vae)
    return fill(network, read_tensors(path), path, device, dtype)


def load_text_encoder(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TextEncoder:
    """Load text encoder and tokenizer. Raises ValueError if files are missing or broken."""
    path = find_weights(backbone, "text_encoder")
    tokenizer = load_tokenizer(weights_folder(backbone) / TOKENIZER)
    with torch.device("meta"):
        encoder = TextEncoder(backbone.text, tokenizer, backbone.dit.text_len)
    tensors = read_tensors(path)
    check(tensors, encoder.official_state_dict(), path)
    encoder.load_official(cast(tensors, device, dtype), assign=True)
    return frozen(encoder)


def save_anchor(network: WanDiT, folder: Path | str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write ``config.json`` and the weights of the anchor network into a backbone's folder."""
    text = json.dumps({"_class_name": "WanModel", "model_type": "ti2v", **asdict(network.sizes)})
    path = Path(folder) / CONFIG
    write(path, lambda part: part.write_text(text + "\n"))
    save(network.state_dict(), Path(folder) / NAMES["anchor"][0], dtype)


def save_vae(network: WanVAE, folder: Path | str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the autoencoder's weights into a backbone's folder."""
    save(network.state_dict(), Path(folder) / NAMES["vae"][0], dtype)


def save_text_encoder(
    encoder: TextEncoder, folder: Path | str, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the text encoder's weights into a backbone's folder; its tokenizer if none is there."""
    if not (Path(folder) / TOKENIZER).exists():
        shutil.copytree(encoder.tokenizer.name_or_path, Path(folder) / TOKENIZER)
    save(encoder.official_state_dict(), Path(folder) / NAMES["text_encoder"][0], dtype)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file, the shards of an index, or a ``.pt``/``.pth`` file into memory."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            tensors.update(
                _read_pickle(file) if file.suffix in (".pt", ".pth") else load_file(file)
            )
        except (SafetensorError, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ValueError(f"{file} cannot be read, it may be truncated: {reason}") from error
    return tensors


def unwrap(loaded: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    """Take the weights out of a trainer's container (EMA when present) and clean their names."""
    if "generator" in loaded or "generator_ema" in loaded:
        inner = loaded.get("generator_ema") or loaded.get("generator")
        loaded = inner if isinstance(inner, Mapping) else {}
    tensors: dict[str, Tensor] = {}
    for name, value in loaded.items():
        cleaned = ".".join(word for word in name.split(".") if word not in _WRAPPERS)
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} is not a checkpoint of weights: {name} is no tensor")
        if cleaned in tensors:
            raise ValueError(f"{path} holds {cleaned} twice, under different prefixes")
        tensors[cleaned] = value
    return tensors


def has_adapter(names: Iterable[str]) -> bool:
    """Whether weights with these names belong to a detail network."""
    return any(name.startswith("spatial_adapter.") for name in names)


def check(tensors: Mapping[str, object], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError, naming the first differences, unless names and shapes are as expected."""
    problems = []
    if missing := [name for name in expected if name not in tensors]:
        problems.append(f"missing {_listed(missing)}")
    if unknown := [name for name in tensors if name not in expected]:
        problems.append(f"unexpected {_listed(unknown)}")
    shapes = [
        f"{name} of shape {_shape(tensors[name])} instead of {_shape(expected[name])}"
        for name in expected
        if name in tensors and _shape(tensors[name]) != _shape(expected[name])
    ]
    if shapes:
        problems.append(_listed(shapes))
    if problems:
        raise ValueError(f"{path} does not fit this backbone: {'; '.join(problems)}")


def check_config(path: Path, backbone: BackboneSettings) -> None:
    """Raise ValueError unless a folder's ``config.json`` agrees with the sizes in the settings."""
    try:
        found = json.loads(path.read_text())
        pairs = [
            (key, found[key], size) for key, size in asdict(backbone.dit).items() if key in found
        ]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a network's configuration: {error}") from error
    if wrong := [f"{key} is {value}, not {size}" for key, value, size in pairs if value != size]:
        raise ValueError(
            f"{path} is another network than backbone={backbone.name} describes: {_listed(wrong)}"
        )


def fill(
    network: Network,
    tensors: Mapping[str, Tensor],
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Network:
    """Give a network on the meta device its weights; ``path`` is only named in errors."""
    check(tensors, network.state_dict(), path)
    network.load_state_dict(cast(tensors, device, dtype), strict=True, assign=True)
    return frozen(network)


def frozen(network: Network) -> Network:
    """Put a filled network into evaluation mode, without gradients."""
    left = [name for name, tensor in network.named_buffers() if tensor.is_meta]
    assert not left, f"buffers that no file holds stayed on the meta device: {left}"
    return network.eval().requires_grad_(False)


def cast(
    tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Bring tensors to device and dtype, one at a time; those already there stay mapped."""
    return {name: tensor.to(device, dtype) for name, tensor in tensors.items()}


def save(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write tensors as safetensors in ``dtype``, names cleaned of wrappers; whole or not at all."""
    copies = {
        name: tensor.detach().to("cpu", dtype).contiguous().clone()
        for name, tensor in unwrap(tensors, path).items()
    }
    write(path, lambda part: save_file(copies, part, metadata={"format": "pt"}))


def write(path: Path, writer: Callable[[Path], object]) -> None:
    """Let ``writer`` write a file beside ``path``, then put it in its place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    writer(part)
    os.replace(part, path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(
        path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
    )
    if not isinstance(loaded, dict):
        raise ValueError(
            f"{path} is not a checkpoint of weights: it holds a {type(loaded).__name__}"
        )
    return loaded


def _shape(value: object) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _listed(items: list[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")
