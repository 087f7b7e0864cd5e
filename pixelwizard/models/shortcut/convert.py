"""A backbone's weights in any layout -> the official layout as safetensors of one data type.

Quantised weights are dequantised, LoRAs are added, and ``backbone.quantize`` quantises the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.models.checkpoints import NAMES, available_parts, tokenizer_folder
from pixelwizard.models.wan.files import LazyTensor, Weight, read, save
from pixelwizard.models.wan.quantised import TYPES, quantised, quantised_names, scale_name
from pixelwizard.models.wan.umt5 import linear_names
from pixelwizard.models.weights import (
    copy_tokenizer,
    open_anchor,
    open_detail,
    open_text_encoder,
    open_vae,
    write_config,
    write_statistics,
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
    names = quantised_names(network)
    return _quantised(weights, names, None if part == "vae" else backbone.quantize)


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
