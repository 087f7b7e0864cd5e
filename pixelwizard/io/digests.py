"""sha256 of files; of large ones remembered between runs, so that 30 GB are read once."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path

from pixelwizard.io.files import write_json

LARGE = 1 << 26
_CHUNK = 1 << 20


def file_digest(path: Path) -> str:
    """The sha256 of a file's content. A changed size or time of writing counts as changed."""
    return _digest(*_key(path))


def remember(path: Path, digest: str) -> None:
    """Keep the sha256 of a file that was just computed, if the file is large."""
    if path.stat().st_size < LARGE:
        return
    place = _place()
    try:
        write_json(place, {**_remembered(), _entry(*_key(path)): digest})
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
        found = json.loads(_place().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
