"""Weight files -> networks, and back: every layout becomes one state dict under the official names.

Networks are built on the meta device and take over memory-mapped tensors, cast one by one, so
loading needs little more memory than the network itself. Loading is strict: the names
and shapes of a file must be exactly those of the network. Loaded networks are frozen and in
evaluation mode; training reverts that with ``train()`` and ``requires_grad_()``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
import yaml
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.config.schema import listed
from pixelwizard.io.files import write_text
from pixelwizard.models.checkpoints import (
    CONFIG,
    NAMES,
    STATISTICS,
    TOKENIZER,
    find_weights,
    tokenizer_folder,
)
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.files import read_tensors, save, unwrap
from pixelwizard.models.wan.layouts import official_dit, official_text, official_vae
from pixelwizard.models.wan.sharding import fill_slices, shard
from pixelwizard.models.wan.umt5 import TextEncoder, load_tokenizer, official_shapes
from pixelwizard.models.wan.vae import WanVAE

Network = TypeVar("Network", bound=nn.Module)
Transformer = TypeVar("Transformer", bound=WanDiT)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NAMED = 3  # how many differing names an error lists


def load_anchor(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    mesh: DeviceMesh | None = None,
) -> WanDiT:
    """Load the anchor network, or this rank's slices of it if there is a ``mesh``.

    Raises ValueError if its files are missing, broken or others'.
    """
    return fill_transformer(*open_anchor(backbone), device, dtype, mesh)


def load_vae(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WanVAE:
    """Load the video autoencoder. Raises ValueError if its file is missing, broken or another's."""
    return fill(*open_vae(backbone), device, dtype)


def load_text_encoder(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TextEncoder:
    """Load text encoder and tokenizer. Raises ValueError if files are missing or broken."""
    tensors = open_text_encoder(backbone)
    tokenizer = load_tokenizer(tokenizer_folder(backbone))
    with torch.device("meta"):
        encoder = TextEncoder(backbone.text, tokenizer, backbone.dit.text_len)
    encoder.load_official(cast(tensors, device, dtype), assign=True)
    return frozen(encoder)


def open_anchor(backbone: BackboneSettings) -> tuple[WanDiT, dict[str, Tensor]]:
    """The anchor network on the meta device and its mapped weights, checked but not loaded."""
    path = find_weights(backbone, "anchor")
    tensors = official_dit(unwrap(read_tensors(path), path, backbone.ema))
    if has_adapter(tensors):
        raise ValueError(f"{path} is a detail network (it has a spatial adapter), not an anchor")
    with torch.device("meta"):
        network = WanDiT(backbone.dit)
    check(tensors, shapes_of(network), path)
    return network, tensors


def open_vae(backbone: BackboneSettings) -> tuple[WanVAE, dict[str, Tensor]]:
    """The autoencoder on the meta device and its mapped weights, checked but not loaded."""
    path = find_weights(backbone, "vae")
    tensors = official_vae(unwrap(read_tensors(path), path), backbone.vae.num_res_blocks)
    with torch.device("meta"):
        network = WanVAE(backbone.vae)
    check(tensors, shapes_of(network), path)
    return network, tensors


def open_text_encoder(backbone: BackboneSettings) -> dict[str, Tensor]:
    """The mapped weights of the text encoder, checked but not loaded."""
    path = find_weights(backbone, "text_encoder")
    tensors = official_text(unwrap(read_tensors(path), path), backbone.text.num_layers)
    check(tensors, official_shapes(backbone.text), path)
    return tensors


def save_anchor(network: WanDiT, folder: Path | str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write ``config.json`` and the weights of the anchor network into a backbone's folder."""
    write_config(network.sizes, Path(folder))
    save(network.state_dict(), Path(folder) / NAMES["anchor"][0], dtype)


def write_config(sizes: DiTSizes, folder: Path) -> None:
    """Write the ``config.json`` of an anchor network, keyed as the official one."""
    text = json.dumps({"_class_name": "WanModel", "model_type": "ti2v", **asdict(sizes)})
    write_text(folder / CONFIG, text + "\n")


def save_vae(network: WanVAE, folder: Path | str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the autoencoder's weights into a backbone's folder."""
    save(network.state_dict(), Path(folder) / NAMES["vae"][0], dtype)


def write_statistics(mean: Sequence[float], std: Sequence[float], folder: Path) -> None:
    """Write what ``checkpoints.own_statistics`` reads, rounded to four places."""
    pairs = (("latent_mean", mean), ("latent_std", std))
    rounded = {name: [round(value, 4) for value in values] for name, values in pairs}
    text = yaml.safe_dump(rounded, default_flow_style=None, width=1000)
    write_text(folder / STATISTICS, text)


def save_text_encoder(
    encoder: TextEncoder, folder: Path | str, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the text encoder's weights into a backbone's folder, and a tokenizer if it has none."""
    copy_tokenizer(Path(encoder.tokenizer.name_or_path), Path(folder))
    save(encoder.official_state_dict(), Path(folder) / NAMES["text_encoder"][0], dtype)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the files of a tokenizer where a backbone's folder has them, unless it has some."""
    if not (folder / TOKENIZER).exists():
        shutil.copytree(source, folder / TOKENIZER)


def has_adapter(names: Iterable[str]) -> bool:
    """Whether weights with these names belong to a detail network."""
    return any(name.startswith("spatial_adapter.") for name in names)


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """The shape of every weight of a network by its name."""
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def check(tensors: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raise ValueError, naming the first differences, unless names, shapes and types fit."""
    problems = []
    if missing := [name for name in expected if name not in tensors]:
        problems.append(f"missing {listed(missing, _NAMED)}")
    if unknown := [name for name in tensors if name not in expected]:
        problems.append(f"unexpected {listed(unknown, _NAMED)}")
    both = [name for name in expected if name in tensors]
    shapes = [
        f"{name} of shape {list(tensors[name].shape)} instead of {list(expected[name])}"
        for name in both
        if list(tensors[name].shape) != list(expected[name])
    ]
    types = [
        f"{name} of type {str(tensors[name].dtype).removeprefix('torch.')}, which is quantised or"
        " no weight"
        for name in both
        if tensors[name].dtype not in _DTYPES
    ]
    problems += [listed(found, _NAMED) for found in (shapes, types) if found]
    if problems:
        raise ValueError(f"{path} does not fit this backbone: {'; '.join(problems)}")


def fill(
    network: Network,
    tensors: Mapping[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
) -> Network:
    """Give a network on the meta device its weights, names and shapes having been checked."""
    network.load_state_dict(cast(tensors, device, dtype), strict=True, assign=True)
    return frozen(network)


def fill_transformer(
    network: Transformer,
    tensors: Mapping[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
    mesh: DeviceMesh | None,
) -> Transformer:
    """``fill`` with all weights, or with this rank's slices where there is a ``mesh``."""
    if mesh is None:
        return fill(network, tensors, device, dtype)
    shard(network, mesh)
    fill_slices(network, tensors, device, dtype)
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
