"""sha256 of files. Those of large files are remembered between runs, so 30 GB are read once."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from pixelwizard.config.schema import ConfigError
from pixelwizard.io.files import read_json, write_json

LARGE = 1 << 26
_CHUNK = 1 << 20


def text_digest(text: str) -> str:
    """The sha256 of a text, which may hold lone surrogates."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's content. A changed size or time of writing counts as changed."""
    return _digest(*_key(path))


def content_digest(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file, or of all files of a folder by their names."""
    if path.is_file():
        return {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    files = {file.name: content_digest(file) for file in sorted(path.iterdir())}
    total = sum(found["bytes"] for found in files.values())
    return {"bytes": total, "sha256": text_digest(repr(files))}


def remember(path: Path, digest: str) -> None:
    """Keep the sha256 of a file that was just computed, if the file is large."""
    if path.stat().st_size < LARGE:
        return
    try:
        write_json(_place(), {**_remembered(), _entry(*_key(path)): digest})
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else


@cache
def _digest(path: str, size: int, modified_ns: int) -> str:
    if digest := _remembered().get(_entry(path, size, modified_ns)) if size >= LARGE else None:
        return digest
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    remember(Path(path), sha.hexdigest())
    return sha.hexdigest()


def _key(path: Path) -> tuple[str, int, int]:
    real = path.resolve()
    state = real.stat()
    return str(real), state.st_size, state.st_mtime_ns


def _entry(path: str, size: int, modified_ns: int) -> str:
    return f"{path}|{size}|{modified_ns}"


def _place() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "pixelwizard" / "digests.json"


def _remembered() -> dict[str, str]:
    try:
        return read_json(_place())
    except (OSError, ConfigError):
        return {}
