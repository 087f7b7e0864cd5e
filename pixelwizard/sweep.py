"""A sweep: its jobs one after the other, and ``sweep.json``, the ledger of how they ended."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pixelwizard.run_folder import LEDGER, short_hash, write_text
from pixelwizard.schema import ConfigError

PENDING, DONE, FAILED = "pending", "done", "failed"
NAME_LENGTH = 100
SOME_FAILED = 3


def job_name(swept: Sequence[str]) -> str:
    """A folder name that says what is special about a job; the same values give the same name."""
    text = ",".join(sorted(swept)) or "job"
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", text)
    return name if name == text and len(name) <= NAME_LENGTH else f"{name[:80]}-{short_hash(text)}"


def run_sweep(folder: Path, jobs: dict[str, Callable[[], int]]) -> int:
    """Run the jobs that are not done yet; returns 0, 3 if some failed, 128 + signal if interrupted.

    A job that fails does not end the sweep. Jobs of an earlier sweep in the folder stay listed.
    """
    ledger = {name: {"status": PENDING} for name in jobs} | _read(folder)
    for number, (name, run) in enumerate(jobs.items(), start=1):
        if ledger[name]["status"] == DONE:
            continue
        print(f"[{number}/{len(jobs)}] {name}", file=sys.stderr)
        ledger[name] = {"status": PENDING}
        _write(folder, ledger)
        code = run()
        if code > 128:
            return code
        ledger[name] = {"status": DONE} if code == 0 else {"status": FAILED, "exit_code": code}
        _write(folder, ledger)
    failed = [name for name in jobs if ledger[name]["status"] == FAILED]
    if failed:
        print(f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}", file=sys.stderr)
    return SOME_FAILED if failed else 0


def _read(folder: Path) -> dict[str, Any]:
    path = folder / LEDGER
    try:
        ledger: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["jobs"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(f"sweep_dir={folder} holds a broken {LEDGER}; remove the file") from None
    return ledger


def _write(folder: Path, ledger: dict[str, Any]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / LEDGER, json.dumps({"jobs": ledger}, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"sweep_dir={folder} cannot be written: {error.strerror}") from None
