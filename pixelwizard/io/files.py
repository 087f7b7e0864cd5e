"""Files: written atomically, their sha256, and what one is by its first bytes. No torch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from pixelwizard.config.schema import ConfigError

PART = ".part"
STALE_SECONDS = 3600
"""An unfinished file of another machine that is older than this has lost its writer."""


@contextmanager
def atomic(path: Path, size: int = 0) -> Iterator[Path]:
    """A temporary path next to ``path``; it replaces ``path`` if the block succeeds.

    Otherwise the old file stays and the temporary one is removed. Several processes may write the
    same path: the last one's stays. ``size`` is how many bytes will be written, so that the OSError
    of a full disk can say how many are missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}{PART}")
    try:
        yield part
        if part.is_dir():
            remove(path)
        os.replace(part, path)
    except Exception as error:
        remove(part)
        if is_full(error):
            raise disk_full(path.parent, size) from error
        raise
    finally:
        remove(part)


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota was full, as Python, Rust and ffmpeg say it."""
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def disk_full(folder: Path, size: int = 0) -> OSError:
    """The error of a folder that has no room for ``size`` bytes (0: unknown)."""
    free = shutil.disk_usage(folder).free
    room = f"{_megabytes(size - free)} are missing" if size > free else f"{_megabytes(free)} free"
    return OSError(errno.ENOSPC, f"the disk is full, {room}", str(folder))


def _megabytes(size: int) -> str:
    return f"{max(size, 1e5) / 1e6:.1f} MB"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file."""
    data = text.encode("utf-8", "surrogateescape")
    with atomic(path, len(data)) as part:
        part.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write plain values."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_file(path: Path) -> str:
    """The text of a UTF-8 file. Raises OSError also for a pipe or a device, which may not end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.read_text(encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises OSError without one, ConfigError where it is damaged."""
    try:
        value = json.loads(read_file(path))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is damaged: it holds no JSON object; remove it")
    return value


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(folder: Path, pattern: str = "*") -> None:
    """Remove leftovers of killed writers in ``folder``; ``pattern`` as for ``Path.glob``."""
    for part in folder.glob(pattern + PART):
        name, _, process = part.name.removesuffix(PART).rpartition(".")
        here = name.endswith(f".{platform.node()}")
        try:
            age = time.time() - part.stat().st_mtime
            if not (is_alive(int(process)) if here else age < STALE_SECONDS):
                remove(part)
        except (FileNotFoundError, ValueError):
            continue  # another process was faster, or the file is not ours


def is_alive(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        with suppress(PermissionError):  # it is another user's
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


LARGE, DIGESTS = 1 << 26, "digests.json"
_CHUNK = 1 << 20


def text_digest(text: str) -> str:
    """The sha256 of a text, which may hold lone surrogates."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's content. A changed size or modification time counts as a change."""
    return _digest(path.resolve(), _entry(path))


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
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_json(cache_folder() / DIGESTS, {**_remembered(), _entry(path): digest})


@cache
def _digest(path: Path, entry: str) -> str:
    if path.stat().st_size >= LARGE and (known := _remembered().get(entry)):
        return known
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    remember(path, sha.hexdigest())
    return sha.hexdigest()


def _entry(path: Path) -> str:
    """The name of a file's present content in the table of digests."""
    real = path.resolve()
    state = real.stat()
    return f"{real}|{state.st_size}|{state.st_mtime_ns}"


def cache_folder() -> Path:
    """The folder of facts about this machine and its files; it may be deleted at any time."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "pixelwizard"


def _remembered() -> dict[str, str]:
    try:
        return read_json(cache_folder() / DIGESTS)
    except (OSError, ConfigError):
        return {}


_LOOK = 512
"""First bytes that are looked at."""
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
}
_CONTAINERS = {b"WEBP": "a WebP picture", b"AVI ": "an AVI video", b"WAVE": "a WAV sound"}
"""Of a RIFF file: what its bytes 8 to 12 say."""


def kind_of(path: Path) -> str | None:
    """What a file is by its first bytes, such as "a PNG picture"; None if it is none of these.

    For messages about a file that was given in place of another.
    """
    with open(path, "rb") as file:
        beginning = file.read(_LOOK)
    if not beginning:
        return "an empty file"
    for signature, name in _SIGNATURES.items():
        if beginning.startswith(signature):
            return name
    if beginning[:4] == b"RIFF":
        return _CONTAINERS.get(beginning[8:12])
    if beginning[4:8] == b"ftyp":
        return "an MP4 or MOV video"
    return "a text file" if _is_text(beginning) else None


def _is_text(beginning: bytes) -> bool:
    """Whether they are UTF-8, but for a character cut at the end, without control characters."""
    try:
        text = beginning.decode()
    except UnicodeDecodeError as error:
        if error.start < _LOOK - 3:
            return False
        text = beginning[: error.start].decode()
    return all(letter.isprintable() or letter.isspace() for letter in text)
