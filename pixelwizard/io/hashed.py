"""Safetensors files that hold the sha256 of their content, checked when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelwizard.io.files import atomic


class Damaged(ValueError):
    """The file is none, is cut off, or its content is not what was written under its name."""


def write_hashed(path: Path, tensors: Mapping[str, Tensor], name: str, text: str) -> None:
    """Write contiguous tensors, and a ``text`` under a ``name`` in the metadata."""
    size = sum(tensor.nbytes for tensor in tensors.values())
    facts = {name: text, "file": path.name, "sha256": _digest(tensors, text)}
    with atomic(path, size) as part:
        save_file(dict(tensors), part, facts)


def read_hashed(path: Path, name: str) -> tuple[dict[str, Tensor], str]:
    """The tensors and the text of a file, "" if it has none.

    Files from before hashes existed are checked only for their format. Raises Damaged.
    """
    if path.exists() and not path.is_file():
        raise Damaged(f"{path} is no file")
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            written = file.metadata() or {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} is damaged") from error
    text = written.get(name, "")
    whole = written.get("sha256") in (None, _digest(tensors, text))
    if not whole or written.get("file", path.name) != path.name:
        raise Damaged(f"{path} is damaged")
    return tensors, text


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """sha256 of a file's content, independent of the order of its tensors."""
    sha = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
