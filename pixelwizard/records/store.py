"""Results of the stages on disk, each named by the hash of everything that determines it."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

STALE_SECONDS = 3600


class Store:
    """Tensors by kind and key, written atomically: a file is either whole or not there.

    Raises ValueError if ``root`` cannot be written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise self._unwritable(error) from None
        self._sweep()

    def path(self, kind: str, key: str) -> Path:
        """Where the result lies, or would lie."""
        return self.root / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: str, key: str) -> bool:
        """Whether the result is there and whole; a damaged file is removed."""
        path = self.path(kind, key)
        try:
            with safe_open(path, "pt"):
                return True
        except FileNotFoundError:
            return False
        except SafetensorError:
            path.unlink(missing_ok=True)
            return False

    def load(self, kind: str, key: str) -> dict[str, Tensor]:
        """The tensors of a result that is there."""
        with safe_open(self.path(kind, key), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    def facts(self, kind: str, key: str) -> dict[str, Any]:
        """What was noted beside the tensors of a result that is there (seconds, memory)."""
        with safe_open(self.path(kind, key), "pt") as file:
            return json.loads((file.metadata() or {}).get("facts", "{}"))

    def save(
        self, kind: str, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Write a result under its key; ``facts`` are plain values that do not determine it."""
        path = self.path(kind, key)
        part = path.with_name(f"{key}.{platform.node()}.{os.getpid()}.part")
        plain = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        plain = {name: tensor.contiguous() for name, tensor in plain.items()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(plain, part, {"facts": json.dumps(dict(facts))})
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error
        finally:
            part.unlink(missing_ok=True)

    def remove(self, kind: str, key: str) -> None:
        """Forget a result; nothing happens if it is not there."""
        self.path(kind, key).unlink(missing_ok=True)

    def _unwritable(self, error: Exception) -> ValueError:
        reason = getattr(error, "strerror", None) or error
        return ValueError(
            f"store.dir={self.root} cannot be written ({reason}); choose another folder"
        )

    def _sweep(self) -> None:
        """Remove what killed writers left behind."""
        for part in self.root.glob("*/*/*.part"):
            try:
                if time.time() - part.stat().st_mtime > STALE_SECONDS:
                    part.unlink()
            except FileNotFoundError:
                continue
