"""GGUF files -> weights that are dequantised as they are read, by the ``gguf`` package.

A tensor's shape is stored reversed, and its rows are quantised in blocks, so any rows can be
dequantised alone. Source of the conventions: city96/ComfyUI-GGUF ``loader.py`` and
``tools/convert.py``: transformers have their official names, text encoders those of llama.cpp
(``layouts.py``); a tensor that was reshaped for its quantisation has its shape in the metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelwizard.io.terminal import reason
from pixelwizard.models.wan.quantised import LazyTensor, Weight

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
