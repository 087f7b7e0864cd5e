"""Results of the stages on disk, named by the hash of everything that determines them."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelwizard.io.files import atomic, remove, remove_unfinished


class Damaged(ValueError):
    """The file is no result, is truncated, or has other content than was written under its name."""


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


FACTS = "facts"

log = logging.getLogger(__name__)


class Store:
    """Tensors by kind and key, in files that hold the sha256 of their content.

    A damaged file is reported by ``say``, removed, and counts as missing. Files from before hashes
    existed are checked only for their format. Raises ValueError if ``root`` cannot be written.
    """

    def __init__(self, root: Path | str, say: Callable[[str], None] = log.warning) -> None:
        self.root, self.say = Path(root), say
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise self._unwritable(error) from None
        remove_unfinished(self.root, "*/*/*")

    def path(self, kind: str, key: str) -> Path:
        """The path of a result, present or not."""
        return self.root / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: str, key: str) -> bool:
        """Whether the result has a file, damaged or not."""
        return self.path(kind, key).is_file()

    def find(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """The tensors of a result, None if it is missing or damaged."""
        path = self.path(kind, key)
        try:
            return read_hashed(path, FACTS)[0]
        except FileNotFoundError:
            return None
        except Damaged as error:
            remove(path)
            self.say(f"{error}; it was removed and is computed again")
            return None

    def load(self, kind: str, key: str) -> dict[str, Tensor]:
        """The tensors of a result. Raises ValueError if it is missing or damaged."""
        tensors = self.find(kind, key)
        if tensors is None:
            raise ValueError(f"{self.path(kind, key)} is gone; the same command computes it again")
        return tensors

    def facts(self, kind: str, key: str) -> dict[str, Any] | None:
        """The facts saved with the tensors of a result (seconds, memory), None if it has none."""
        if not self.has(kind, key):
            return None
        try:
            with safe_open(self.path(kind, key), "pt") as file:
                return json.loads((file.metadata() or {}).get(FACTS, "{}"))
        except (OSError, SafetensorError, ValueError):
            return None

    def save(
        self, kind: str, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Write a result under its key; ``facts`` are plain values that do not determine it."""
        plain = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        plain = {name: tensor.contiguous() for name, tensor in plain.items()}
        try:
            write_hashed(self.path(kind, key), plain, FACTS, json.dumps(dict(facts)))
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error

    def remove(self, kind: str, key: str) -> None:
        """Delete a result, if it exists."""
        self.path(kind, key).unlink(missing_ok=True)

    def _unwritable(self, error: Exception) -> ValueError:
        reason = getattr(error, "strerror", None) or error
        return ValueError(
            f"store.dir={self.root} cannot be written ({reason}); choose another folder"
        )
