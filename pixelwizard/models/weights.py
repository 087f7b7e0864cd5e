"""Weight files -> networks, and back: every layout becomes one state dict under the official names.

Networks are built on the meta device and take over memory-mapped tensors, cast, dequantised and
with LoRAs added one by one, so loading needs little more memory than the network itself. Loading
is strict: the names and shapes of a file must be exactly those of the network. Loaded networks are
frozen and in evaluation mode; training reverts that with ``train()`` and ``requires_grad_()``.

Weights may be sharded over ranks (FSDP2): a rank holds its slices and the whole block in use. Every
weight is cut along its first axis into equal parts; the last ones may be smaller or empty. Slices
are copied, or computed, straight from mapped files: no rank ever holds a whole network.

``convert`` writes a backbone's weights in any layout into the official one, as safetensors of one
data type: quantised weights are dequantised, LoRAs added, ``backbone.quantize`` quantises the rest.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import yaml
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.types import Device

from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.schema import listed
from pixelwizard.io.files import atomic, read_json, write_text
from pixelwizard.models.checkpoints import (
    CONFIG,
    NAMES,
    STATISTICS,
    TOKENIZER,
    available_parts,
    find_weights,
    require_weights,
    tokenizer_folder,
)
from pixelwizard.models.shortcut.network import (
    AnyFlowDiT,
    ShortcutDiT,
    SteppedAnchor,
    SteppedDiT,
    make_detail,
)
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.files import FLOAT8, LazyTensor, Weight, open_weights, read, save
from pixelwizard.models.wan.layouts import official_dit, official_text, official_vae, recognised
from pixelwizard.models.wan.quantised import (
    TYPES,
    quantise_linears,
    quantised,
    quantised_names,
    scale_name,
)
from pixelwizard.models.wan.umt5 import (
    TextEncoder,
    linear_names,
    load_tokenizer,
    official_shapes,
)
from pixelwizard.models.wan.vae import WanVAE

Network = TypeVar("Network", bound=nn.Module)
Transformer = TypeVar("Transformer", bound=WanDiT)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, *FLOAT8)
_CONTROL = re.compile(r"spatial_adapter\.zero_layers\.(\d+)\.weight")
_NAMED = 3  # how many differing names an error lists


def load_anchor(
    backbone: BackboneSettings,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
    mesh: DeviceMesh | None = None,
) -> WanDiT:
    """Load the anchor network, or this rank's slices of it if there is a ``mesh``.

    Raises ValueError if its files are missing, broken or another network's.
    """
    return fill_transformer(*open_anchor(backbone), device, dtype, mesh, backbone.quantize)


def load_detail(
    backbone: BackboneSettings,
    device: Device = "cpu",
    dtype: torch.dtype = torch.float32,
    mesh: DeviceMesh | None = None,
) -> ShortcutDiT:
    """Load the detail network, or this rank's slices of it if there is a ``mesh``.

    The blocks that it controls are read from the names of its weights; if a user's class has
    other names, from the settings. Raises ValueError if its file is missing, broken or another
    network's.
    """
    return fill_transformer(*open_detail(backbone), device, dtype, mesh, backbone.quantize)


def load_vae(
    backbone: BackboneSettings, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> WanVAE:
    """Load the video autoencoder. Raises ValueError if its file is missing, broken or another's."""
    return fill(*open_vae(backbone), device, dtype).lay_out()


def load_text_encoder(
    backbone: BackboneSettings, device: Device = "cpu", dtype: torch.dtype = torch.float32
) -> TextEncoder:
    """Load text encoder and tokenizer. Raises ValueError if files are missing or broken.

    ``backbone.quantize_text``: the linears of its blocks in 8 bits.
    """
    tensors = open_text_encoder(backbone)
    tokenizer = load_tokenizer(tokenizer_folder(backbone))
    with torch.device("meta"):
        encoder = TextEncoder(backbone.text, tokenizer, backbone.dit.text_len)
    kind = backbone.quantize_text
    weights = cast(tensors, device, dtype, linear_names(backbone.text), kind)
    encoder.load_official(weights, kind)
    return frozen(encoder)


def open_anchor(backbone: BackboneSettings) -> tuple[WanDiT, dict[str, Weight]]:
    """The anchor network on the meta device and its weights, checked but not loaded."""
    path = find_weights(backbone, "anchor")
    tensors = official_dit(open_weights(path, "transformer", backbone.ema))
    if has_adapter(tensors):
        raise ValueError(f"{path} is a detail network (it has a spatial adapter), not an anchor")
    with torch.device("meta"):
        network = anchor_class(tensors)(backbone.dit)
    if isinstance(network, AnyFlowDiT):
        check_flow_map(path)
    check(tensors, shapes_of(network), path)
    return network, with_loras(backbone, "anchor", tensors)


def open_detail(backbone: BackboneSettings) -> tuple[ShortcutDiT, dict[str, Weight]]:
    """The detail network on the meta device and its weights, checked but not loaded."""
    path = find_weights(backbone, "detail")
    tensors = official_dit(open_weights(path, "transformer", backbone.ema))
    patches = tensors.get("patch_embedding.weight")
    ours = patches is not None and patches.shape[0] == backbone.dit.dim
    if backbone.detail_network is None and ours and not has_adapter(tensors):
        raise ValueError(f"{path} has no spatial adapter: it is an anchor, not a detail network")
    matches = (_CONTROL.fullmatch(name) for name in tensors)
    blocks = sorted(int(match[1]) for match in matches if match)
    if blocks and blocks[-1] >= backbone.detail_dit.num_layers:
        raise ValueError(
            f"{path} steers block {blocks[-1]}, but this backbone's detail network has "
            f"{backbone.detail_dit.num_layers} blocks: it belongs to another one"
        )
    with torch.device("meta"):
        network = make_detail(
            backbone.detail_network, backbone.detail_dit, blocks or backbone.control_blocks
        )
    check(tensors, shapes_of(network), path)
    return network, with_loras(backbone, "detail", tensors)


def with_loras(
    backbone: BackboneSettings, stage: str, tensors: dict[str, Weight]
) -> dict[str, Weight]:
    """The weights of a stage's network with its LoRAs, added as they are read."""
    if all(lora.stage != stage for lora in backbone.lora):
        return tensors
    from pixelwizard.models.lora.merge import merged

    return merged(backbone, stage, tensors)


def open_vae(backbone: BackboneSettings) -> tuple[WanVAE, dict[str, Weight]]:
    """The autoencoder on the meta device and its weights, checked but not loaded."""
    path = find_weights(backbone, "vae")
    tensors = official_vae(open_weights(path, "vae"), backbone.vae.num_res_blocks)
    with torch.device("meta"):
        network = WanVAE(backbone.vae)
    check(tensors, shapes_of(network), path)
    return network, tensors


def open_text_encoder(backbone: BackboneSettings) -> dict[str, Weight]:
    """The weights of the text encoder, checked but not loaded."""
    path = find_weights(backbone, "text_encoder")
    tensors = official_text(open_weights(path, "text_encoder"), backbone.text.num_layers)
    check(tensors, official_shapes(backbone.text), path)
    return tensors


def check_weights(backbone: BackboneSettings, anchor: SamplerSettings) -> None:
    """Check the files of all four parts before anything is computed; reads names and shapes only.

    Raises ValueError for the first file that is missing, broken or another network's, and for an
    anchor network without the step sizes that its sampler gives it.
    """
    require_weights(backbone)
    open_text_encoder(backbone)
    network, _ = open_anchor(backbone)
    if anchor.step_sizes != "none" and not isinstance(network, SteppedAnchor):
        raise ValueError(
            f"anchor.step_sizes={anchor.step_sizes} needs an anchor network that was trained with"
            f" step sizes, and {find_weights(backbone, 'anchor')} has no dt_embedding; train one"
            " with objective=flow_map stage=anchor, or use anchor=unipc20"
        )
    for part in (open_detail, open_vae):
        part(backbone)


def save_network(
    network: nn.Module, part: str, folder: Path | str, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the weights of an anchor, detail or vae network into a backbone's folder.

    The anchor's ``config.json`` comes with them.
    """
    if isinstance(network, WanDiT) and part == "anchor":
        write_config(network.sizes, Path(folder))
    save(network.state_dict(), Path(folder) / NAMES[part][0], dtype)


def write_config(sizes: DiTSizes, folder: Path) -> None:
    """Write the ``config.json`` of an anchor network, keyed as the official one."""
    text = json.dumps({"_class_name": "WanModel", "model_type": "ti2v", **asdict(sizes)})
    write_text(folder / CONFIG, text + "\n")


def write_statistics(mean: Sequence[float], std: Sequence[float], folder: Path) -> None:
    """Write what ``checkpoints.own_statistics`` reads, rounded to four places."""
    pairs = (("latent_mean", mean), ("latent_std", std))
    rounded = {name: [round(value, 4) for value in values] for name, values in pairs}
    text = yaml.safe_dump(rounded, default_flow_style=None, width=1000)
    write_text(folder / STATISTICS, text)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the files of a tokenizer where a backbone's folder has them, unless it has some."""
    if not (folder / TOKENIZER).exists():
        with atomic(folder / TOKENIZER) as part:
            shutil.copytree(source, part)


def has_adapter(names: Iterable[str]) -> bool:
    """Whether weights with these names belong to a detail network."""
    return any(name.startswith("spatial_adapter.") for name in names)


def anchor_class(names: Iterable[str]) -> type[WanDiT]:
    """The class of an anchor network with these names: Wan's, or one with step sizes."""
    kinds = {"dt_embedding.": SteppedDiT, "delta_embedding.": AnyFlowDiT}
    parts = {name.partition(".")[0] + "." for name in names}
    return next((kind for part, kind in kinds.items() if part in parts), WanDiT)


def check_flow_map(path: Path) -> None:
    """Raise ValueError if the ``config.json`` beside AnyFlow's weights has another conditioning."""
    if not (path.parent / CONFIG).is_file():
        return
    config = read_json(path.parent / CONFIG)
    known = {"gate_value": AnyFlowDiT.gate, "deltatime_type": "r"}
    for name, value in known.items():
        if config.get(name, value) != value:
            raise ValueError(
                f"{path.parent / CONFIG} has {name}={config[name]}; AnyFlow's weights are read with"
                f" {name}={value}, as published"
            )


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """The shape of every weight of a network by its name."""
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def check(tensors: Mapping[str, Weight], expected: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raise ValueError unless names, shapes and types fit.

    It says what the file is if that is known, else it names the first differences.
    """
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
    if not problems:
        return
    if known := recognised({name: tensor.shape for name, tensor in tensors.items()}, expected):
        raise ValueError(f"{path} {known} ({problems[0]})")
    raise ValueError(f"{path} does not fit this backbone: {'; '.join(problems)}")


def fill(
    network: Network,
    tensors: Mapping[str, Weight],
    device: Device,
    dtype: torch.dtype,
    quantize: str | None = None,
) -> Network:
    """Give a network on the meta device its weights, names and shapes having been checked.

    ``quantize``: the linears of the blocks in 8 bits, one weight at a time.
    """
    names = quantised_names(network) if quantize else ()
    state = cast(tensors, device, dtype, names, quantize)
    if quantize:
        quantise_linears(network, quantize)
    network.load_state_dict(state, strict=True, assign=True)
    return frozen(network)


def fill_transformer(
    network: Transformer,
    tensors: Mapping[str, Weight],
    device: Device,
    dtype: torch.dtype,
    mesh: DeviceMesh | None,
    quantize: str | None = None,
) -> Transformer:
    """``fill`` with all weights, or with this rank's slices where there is a ``mesh``."""
    if mesh is None:
        return fill(network, tensors, device, dtype, quantize)
    shard(network, mesh)
    slices = {
        name: _slice(weight, tensors[name], device, dtype)
        for name, weight in network.state_dict().items()
    }
    network.load_state_dict(slices, strict=True, assign=True)
    return frozen(network)


def frozen(network: Network) -> Network:
    """Put a filled network into evaluation mode, without gradients."""
    left = [name for name, tensor in network.named_buffers() if tensor.is_meta]
    assert not left, f"buffers that no file holds stayed on the meta device: {left}"
    return network.eval().requires_grad_(False)


def cast(
    tensors: Mapping[str, Weight],
    device: Device,
    dtype: torch.dtype,
    names: Collection[str] = (),
    kind: str | None = None,
) -> dict[str, Tensor]:
    """Bring weights to device and dtype, one at a time; those already there stay mapped.

    With a ``kind`` of 8 bits those of ``names`` are rounded to it, and have scales of that dtype.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if kind and name in names:
            whole = read(tensor, device, torch.float32)
            state[name], scale = quantised(whole, kind)
            state[scale_name(name)] = scale.to(dtype)
        else:
            state[name] = read(tensor, device, dtype)
    return state


def shard(network: WanDiT, mesh: DeviceMesh) -> None:
    """Cut the weights of a network, possibly on the meta device, over the ranks of ``mesh``.

    A mesh of two axes holds copies along the first and slices along the second.
    """
    for block in network.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
        register_fsdp_forward_method(block, "text_keys_values")
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    for method in network.entrances:
        register_fsdp_forward_method(network, method)


def _slice(weight: DTensor, whole: Weight, device: Device, dtype: torch.dtype) -> DTensor:
    mesh = weight.device_mesh
    assert mesh.ndim == 1, "weights are read in slices along one axis"
    rows = -(-len(whole) // mesh.size())
    start = rows * mesh.get_local_rank()
    own = read(whole, device, dtype, slice(start, start + rows))
    return DTensor.from_local(
        own, mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )


def convert(backbone: BackboneSettings, out: Path | str, dtype: str = "bfloat16") -> Iterator[Path]:
    """Write every part that the backbone has into ``out``, checked first; yields each file.

    A tensor at a time is in memory. Raises ValueError for files that do not fit the backbone.
    """
    folder = Path(out)
    parts = [(part, *_opened(backbone, part)) for part in available_parts(backbone)]
    for part, weights, types in parts:
        if part == "anchor":
            write_config(backbone.dit, folder)
        if part == "vae":
            write_statistics(backbone.vae.latent_mean, backbone.vae.latent_std, folder)
        if part == "text_encoder":
            copy_tokenizer(tokenizer_folder(backbone), folder)
        path = folder / NAMES[part][0]
        save(weights, path, getattr(torch, dtype), types=types)
        yield path


def _opened(
    backbone: BackboneSettings, part: str
) -> tuple[Mapping[str, Weight], Mapping[str, torch.dtype]]:
    """The weights of a part under their official names; types of the quantised."""
    if part == "text_encoder":
        names = linear_names(backbone.text)
        return _quantised(open_text_encoder(backbone), names, backbone.quantize_text)
    openers = {"anchor": open_anchor, "detail": open_detail, "vae": open_vae}
    network, weights = openers[part](backbone)
    kind = None if part == "vae" else backbone.quantize
    return _quantised(weights, quantised_names(network), kind)


def _quantised(
    weights: Mapping[str, Weight], names: Collection[str], kind: str | None
) -> tuple[Mapping[str, Weight], Mapping[str, torch.dtype]]:
    """Weights with those of ``names`` in 8 bits and their scales, and the types of these."""
    if kind is None:
        return weights, {}
    found: dict[str, Weight] = {}
    types: dict[str, torch.dtype] = {}
    for name, weight in weights.items():
        if name not in names:
            found[name] = weight
            continue
        for part, (own, width) in enumerate(((name, weight.shape[1]), (scale_name(name), 1))):
            found[own] = LazyTensor((len(weight), width), partial(_rows, weight, kind, part))
            types[own] = torch.float32 if part else TYPES[kind][0]
    return found, types


def _rows(weight: Weight, kind: str, part: int, rows: slice) -> Tensor:
    return quantised(read(weight, "cpu", torch.float32, rows), kind)[part].float()
