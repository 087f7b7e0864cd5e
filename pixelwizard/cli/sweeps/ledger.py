"""A sweep: its jobs, and ``sweep.json``, the ledger of their states."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelwizard.cli.tasks import command
from pixelwizard.config.schema import ConfigError
from pixelwizard.io.files import read_json, write_json
from pixelwizard.io.process import SOME_FAILED, USER_ERROR
from pixelwizard.io.terminal import printable, say
from pixelwizard.records.run_folder import CONFIG, LEDGER, Failure, kernel_kills, locked, short_hash

PENDING, DONE = "pending", "done"
NAME_LENGTH = 100
KILLED = 137
INTERRUPTS = (129, 130, 143)


@dataclass(frozen=True)
class SweepJob:
    """One run of a sweep: its task, its configuration, the values that are its own."""

    task: str
    config: Any
    swept: tuple[str, ...]
    command_line: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder of its results."""
        return Path(self.config.run_dir)

    def finished(self) -> bool:
        """Whether its results still exist, and match the configuration."""
        return (self.folder / CONFIG).is_file() and command(self.task).finished(self.config)

    def __call__(self) -> Ended:
        """Run it; its errors stay inside, except a request to stop."""
        print(f"> {self.folder.name}", file=sys.stderr, flush=True)
        kills = kernel_kills()
        try:
            code = command(self.task).run(self.config, self.command_line)
        except (ValueError, OSError) as error:
            say(str(error))
            return Ended(USER_ERROR, Failure(str(error)))
        if code == 0 or code in INTERRUPTS:
            return Ended(code)
        if code == KILLED:
            return Ended(code, Failure("SIGKILL ended the worker", kernel_kills() > kills))
        return Ended(code, Failure.left_in(self.folder) or Failure(f"it ended with code {code}"))


@dataclass(frozen=True)
class Ended:
    """How a job ended: the exit code, and why if it failed."""

    code: int
    failure: Failure | None = None

    @property
    def state(self) -> dict[str, Any]:
        """Its entry in the ledger."""
        if self.failure is None:
            return {"status": DONE}
        failure = self.failure
        return {"status": failure.status, "exit_code": self.code, "reason": failure.reason}


Launch = Callable[[Mapping[str, SweepJob]], Iterable[tuple[str, Ended]]]


def job_name(swept: Sequence[str]) -> str:
    """A folder name made of a job's own values; equal values give equal names."""
    text = ",".join(sorted(swept)) or "job"
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", text)
    return name if name == text and len(name) <= NAME_LENGTH else f"{name[:80]}-{short_hash(text)}"


def in_turn(jobs: Mapping[str, SweepJob]) -> Iterator[tuple[str, Ended]]:
    """One job after the other, in this process's workers."""
    for name, job in jobs.items():
        yield name, job()


def run_sweep(folder: Path, jobs: Mapping[str, SweepJob], launch: Launch = in_turn) -> int:
    """Run the jobs that are not done yet; returns 0, 3 if some failed, 128 + signal if interrupted.

    A job that fails does not end the sweep. Jobs of an earlier sweep in the folder stay listed.
    """
    with locked(folder, key="sweep_dir"):
        ledger = Ledger(folder / LEDGER)
        todo = {name: job for name, job in jobs.items() if not ledger.done(name, job)}
        for number, (name, ended) in enumerate(launch(todo), start=1):
            if ended.code in INTERRUPTS:
                return ended.code
            ledger.note(name, ended)
            print(f"[{number}/{len(todo)}] {name}: {ledger.summary(name)}", flush=True)
    if text := saved([job.folder for job in jobs.values()]):
        print(text, file=sys.stderr)
    failed = [name for name in jobs if not ledger.has(name, DONE)]
    if failed:
        print(f"{len(failed)} of {len(jobs)} jobs failed:", file=sys.stderr)
    for name in failed:
        print(f"  {name}: {ledger.summary(name)}", file=sys.stderr)
    return SOME_FAILED if failed else 0


class Ledger:
    """``sweep.json``, written after every change.

    A job is pending, done, failed or out of memory, the latter two with the reason. Raises
    ConfigError for a file that is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        jobs = read_json(path).get("jobs") if path.exists() else {}
        if not isinstance(jobs, dict) or not all(
            isinstance(state, dict) for state in jobs.values()
        ):
            raise ConfigError(f"{path} is damaged: it is not a ledger of a sweep; remove it")
        self.states: dict[str, dict[str, Any]] = jobs

    def has(self, name: str, status: str) -> bool:
        """Whether a job is in this state."""
        return self.states.get(name, {}).get("status") == status

    def done(self, name: str, job: SweepJob) -> bool:
        """Whether a job is done, and list it as pending if not."""
        if self.has(name, DONE) and job.finished():
            return True
        self._set(name, {"status": PENDING, "overrides": list(job.swept)})
        return False

    def note(self, name: str, ended: Ended) -> None:
        """A job has ended."""
        self._set(name, {**ended.state, "overrides": self.states[name]["overrides"]})

    def summary(self, name: str) -> str:
        """The state of a job, and the job's own sentence if it failed."""
        state = self.states[name]
        return printable(": ".join(state[key] for key in ("status", "reason") if key in state))

    def _set(self, name: str, state: dict[str, Any]) -> None:
        self.states[name] = state
        write_json(self.path, {"jobs": self.states})


def saved(folders: Iterable[Path]) -> str:
    """What runs reused from the store: seconds and results by stage; may be empty."""
    seconds: dict[str, list[float]] = {}
    for path in (path for folder in folders for path in (folder / "videos").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            for stage, cost in read_json(path)["stages"].items():
                if cost.get("reused"):
                    seconds.setdefault(stage, []).append(float(cost["seconds"]))
    if not seconds:
        return ""
    parts = (f"{len(costs)} x {stage} ({sum(costs):.1f} s)" for stage, costs in seconds.items())
    total = sum(map(sum, seconds.values()))
    return f"the store saved {total:.1f} s: {', '.join(parts)} computed once and reused"
