"""The program as a user starts it, in a folder of its own, with every process of it in sight."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "PIXELWIZARD_FAULTS"
TIMED = ("second", "minute", "time", "peak", "memory", "reused", "loading")
"""Parts of the names of values that no two runs have alike."""


def start(folder: Path, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """``pixelwizard WORDS`` with the working directory ``folder``; what it prints goes to ``log``.

    Its processes, and theirs, bear the folder's name in their environment.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, MARK: str(folder), "PYTHONPATH": path, "WANDB_MODE": "offline"}
    with open(log, "ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "pixelwizard", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def processes(folder: Path) -> dict[int, str]:
    """The living processes that were started for ``folder``: pid -> command line."""
    mark, found = f"{MARK}={folder}".encode(), {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command:  # a zombie has none
                    found[int(place.name)] = command
        except OSError:  # it has ended meanwhile, or is nobody's of ours
            continue
    return found


def kill(folder: Path, whom: str, parent: int) -> bool:
    """SIGKILL the ``parent``, its ``worker``s, ``ffmpeg``, or ``all``; whether one was there."""
    living = processes(folder)
    chosen = {
        "parent": [parent] if parent in living else [],
        "worker": [pid for pid, line in living.items() if "--multiprocessing-fork" in line]
        or [pid for pid, line in living.items() if "forkserver" in line],
        "ffmpeg": [pid for pid, line in living.items() if "ffmpeg" in line.split()[0]],
        "all": list(living),
    }[whom]
    for pid in chosen:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return bool(chosen)


def gone(folder: Path, seconds: float = 90.0) -> list[str]:
    """Wait until every process of a folder has ended; the command lines of those that have not."""
    deadline = time.monotonic() + seconds
    while (living := processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return list(living.values())


def left_over(folder: Path) -> list[str]:
    """Temporary files of a folder in which nothing runs."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [n for n in names if n.endswith((".part", ".tmp")) or ".part-" in n]


def results(folder: Path) -> dict[str, str]:
    """A digest of everything in a folder that must not depend on how often it was interrupted.

    Videos, pictures and tensors by their bytes; tables and JSON without what the clock says.
    """
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and not set(path.parts) & {"wandb", "_state", "rates"}:
            for data in _content(path):
                found[name] = hashlib.sha256(data).hexdigest()[:16]
    return found


def _content(path: Path) -> Iterator[bytes]:
    if path.suffix in (".mp4", ".png", ".pt", ".html", ".svg"):
        yield path.read_bytes()
    elif path.suffix == ".safetensors":
        data = path.read_bytes()
        yield data[8 + int.from_bytes(data[:8], "little") :]
    elif path.suffix == ".json":
        yield json.dumps(_timeless(json.loads(path.read_text("utf-8"))), sort_keys=True).encode()
    elif path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(path.read_text("utf-8")))
        yield json.dumps([_timeless(row) for row in rows]).encode()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(t in str(k).lower() for t in TIMED)}
        return {key: _timeless(item) for key, item in kept.items()}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
