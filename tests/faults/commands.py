"""The program as a user starts it, in a folder of its own, with every process of it in sight."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "PIXELWIZARD_FAULTS"
TIMED = {"seconds", "loading_seconds", "step_seconds", "data_seconds", "minutes"}
TIMED |= {"tokens_per_second", "peak_gb", "reused"}
"""Names of values that depend on the clock, the memory in use, or on what an earlier try left."""
APART = {"wandb", "rates"}
"""Folders with records of every start: W&B's files, the measured speed of the machine."""
CLOCKS = {".log", ".ckpt", ""}
"""Files that say when they were written; a checkpoint is compared by what is exported from it."""


@dataclass(frozen=True)
class Process:
    """A living process: the number of its parent, and its command line."""

    parent: int
    command: str


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


def processes(folder: Path) -> dict[int, Process]:
    """The living processes that were started for ``folder``, by their numbers."""
    mark, found = f"{MARK}={folder}".encode(), {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if command:  # a zombie has none
                    found[int(place.name)] = Process(parent, command)
        except OSError:  # it has ended meanwhile, or is another user's
            continue
    return found


def roles(folder: Path, first: int) -> dict[str, list[int]]:
    """The living processes of a command by what they are; ``first`` is the one that was started.

    A ``server`` forks workers, a ``loader`` is a child of a worker.
    """
    living, found = processes(folder), {}
    for number, process in living.items():
        command, above = process.command, living.get(process.parent)
        role = "other"
        if number == first:
            role = "parent"
        elif "ffmpeg" in command.split()[0]:
            role = "ffmpeg"
        elif "resource_tracker" in command:
            role = "other"
        elif process.parent == first:
            role = "server" if "forkserver" in command else "worker"
        elif above is not None and above.parent == first:
            role = "worker" if "forkserver" in above.command else "loader"
        found.setdefault(role, []).append(number)
    return found


def gone(folder: Path, seconds: float = 90.0) -> list[str]:
    """Wait until every process of a folder has ended; the command lines of those that have not."""
    deadline = time.monotonic() + seconds
    while (living := processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [process.command for process in living.values()]


def left_over(folder: Path) -> list[str]:
    """Temporary files and locks of a folder in which nothing runs."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [n for n in names if n.endswith((".part", ".tmp", ".lock")) or ".part-" in n]


def results(folder: Path) -> dict[str, str]:
    """A digest of everything in a folder that must not depend on how often it was interrupted.

    Videos, pictures and tensors by their bytes; tables, settings and JSON without what the clock
    says and where the folder lies.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_file() and not set(place.parts) & APART and path.suffix not in CLOCKS:
            data = content(path).replace(str(folder).encode(), b"FOLDER")
            found[str(place)] = hashlib.sha256(data).hexdigest()[:16]
    return found


def content(path: Path) -> bytes:
    """What a file says, without its times and the order of its entries."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        data = data[8 + int.from_bytes(data[:8], "little") :]
    elif path.suffix == ".json":
        data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
    elif path.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(data.decode()))
        data = json.dumps([_timeless(row) for row in rows]).encode()
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMED}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
