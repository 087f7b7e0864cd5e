"""The run folder: its lock, its configuration, the state of every prompt, why the run failed.

One writer per folder; readers need no lock. The system frees a lock when its holder ends in any
way. The next holder reuses a leftover lock file and removes it at its end. No torch here.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from pixelwizard.config.schema import ConfigError, differences, is_below, marked, show, to_plain
from pixelwizard.config.tasks import EXPERIMENTS, load
from pixelwizard.data.table import PROBED
from pixelwizard.io.files import read_json, text_digest, write_json, write_text
from pixelwizard.io.terminal import MOST, reason

LOCK = ".lock"

log = logging.getLogger(__name__)


@contextmanager
def locked(
    folder: Path, command: str = "", key: str = "run_dir", file: str = LOCK
) -> Iterator[None]:
    """Keep other writers out of ``folder`` until the block ends.

    The folder is created if missing. ``command``, by default this process's, is shown to refused
    writers; ``key`` is the setting that names the folder, ``file`` the name of the lock.
    Raises ConfigError if another process holds the folder or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _taken(folder / file)
    except (FileExistsError, NotADirectoryError):
        taken = next(path for path in (folder, *folder.parents) if path.exists())
        raise ConfigError(f"{key}={folder}: {taken} is a file; choose another folder") from None
    except OSError as error:
        raise ConfigError(f"{key}={folder} cannot be written: {error.strerror}") from None
    if descriptor is None:
        raise ConfigError(
            f"{key}={folder} is in use by {_holder(folder / file)}; wait until it ends or choose"
            " another folder"
        )
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, _introduction(command).encode("utf-8", "surrogateescape"))
        yield
    finally:
        (folder / file).unlink(missing_ok=True)
        os.close(descriptor)


def _taken(file: Path) -> int | None:
    """The locked file, or None if another process holds it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            log.warning("%s has no locks (%s): nothing keeps other writers out", file, error)
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        os.close(descriptor)  # its holder removed it between the two calls


def _introduction(command: str) -> str:
    own = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    facts = {"process": os.getpid(), "machine": platform.node(), "since": since}
    return json.dumps({**facts, "command": command or own}, ensure_ascii=False)


def _holder(file: Path) -> str:
    """The holder, as part of a sentence."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        place = f"process {facts['process']} on {facts['machine']}"
        return f"{place} since {facts['since']} ({show(facts['command'])})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


CONFIG, OVERRIDES, LEDGER = "config.yaml", "overrides.txt", "sweep.json"
STATUS, SCORES, SHEET = "status.json", "metrics.json", "contact_sheet.png"


def config_hash(config: Any) -> str:
    """Eight hexadecimal digits of everything that determines the results."""
    return short_hash(determining(config))


def determining(config: Any) -> dict[str, Any]:
    """The plain values of a configuration without the incidental ones."""
    values: dict[str, Any] = to_plain(config)
    for key in marked(type(config), "incidental"):
        *groups, name = key.split(".")
        node = values
        for group in groups:
            node = node.get(group, {})
        node.pop(name, None)
    return values


def short_hash(value: Any) -> str:
    """Eight hexadecimal digits of a plain value."""
    return text_digest(json.dumps(value, sort_keys=True, ensure_ascii=False))[:8]


def default_run_dir(config: Any, choices: Mapping[str, Any]) -> str:
    """The folder of a run without ``run_dir``, below outputs.

    It is named after the experiment, or else after the ``choices`` of the groups that are marked
    ``names_run``, and has the hash of all that determines the results.
    """
    places = marked(type(config), "names_run")
    groups = sorted(places.keys() & choices.keys(), key=places.__getitem__)
    named = [EXPERIMENTS] if choices.get(EXPERIMENTS) else groups
    joined = "-".join([*(choices[group] for group in named), config_hash(config)])
    return str(Path.cwd() / "outputs" / re.sub(r"[^A-Za-z0-9._-]+", "+", joined))


def claim(config: Any, command: Sequence[str]) -> Path:
    """Make the run folder of ``config``, or continue in the one that has the same configuration.

    Raises ConfigError if the folder belongs to another configuration, is in use or cannot be
    written.
    """
    folder = Path(config.run_dir)
    text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=100)
    try:
        with locked(folder, shlex.join(command)):
            _refuse_foreign(config, folder)
            write_text(folder / CONFIG, text)
            write_text(folder / OVERRIDES, shlex.join(command) + "\n")
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be written: {error.strerror}") from None
    return folder


def _refuse_foreign(config: Any, folder: Path) -> None:
    path = folder / CONFIG
    try:
        known = path.exists()
        old = to_plain(load(path)) if known else None
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"run_dir={folder} holds a {CONFIG} that this version cannot read ({reason(error)});"
            " choose another folder"
        ) from None
    if old is None:
        return
    free = marked(type(config), "incidental")
    differ = [key for key in differences(old, to_plain(config)) if not is_below(key, free)]
    if differ and not _failed_at_once(folder):
        shown = ", ".join(differ[:5]) + (", ..." if len(differ) > 5 else "")
        raise ConfigError(
            f"run_dir={folder} belongs to another configuration (it differs in {shown});"
            " choose another folder or repeat the same settings"
        )


def _failed_at_once(folder: Path) -> bool:
    """Whether a folder holds no more than a run that failed before its first result."""
    if not (folder / FAILURE).is_file():
        return False
    files = (path for path in folder.rglob("*") if path.is_file())
    return all(path.name in BEGUN or path.suffix == ".log" for path in files)


SHARE = 0.02
"""The largest share of the time for writing the file, so long lists stay cheap."""


class Status:
    """Prompt id -> pending, done or failed (and why).

    A change is on disk at once, or in a run of thousands of prompts within seconds, and at
    ``close``. Without a path nothing is written.
    """

    def __init__(self, path: Path | None, ids: Iterable[str]) -> None:
        self.path, self.due = path, 0.0
        self.states: dict[str, dict[str, str]] = {id: {"state": "pending"} for id in ids}

    def done(self, *ids: str) -> None:
        """These prompts have their video."""
        self.states |= {id: {"state": "done"} for id in ids}
        self._save()

    def fail(self, id: str, why: str) -> None:
        """Mark a prompt as failed; ``why`` is one sentence."""
        self.states[id] = {"state": "failed", "why": why}
        self._save()

    @property
    def failed(self) -> dict[str, str]:
        """Id -> why."""
        return {id: s["why"] for id, s in self.states.items() if s["state"] == "failed"}

    def ids(self, state: str) -> list[str]:
        """The prompts in a state, in their order."""
        return [id for id, found in self.states.items() if found["state"] == state]

    def close(self) -> None:
        """Write the file."""
        if self.path is not None:
            write_json(self.path, self.states)

    def _save(self) -> None:
        started = time.monotonic()
        if started >= self.due:
            self.close()
            ended = time.monotonic()
            self.due = ended + (ended - started) / SHARE


FAILURE = "failure.json"
BEGUN = {CONFIG, OVERRIDES, FAILURE, LOCK, PROBED}
"""What a run writes before its first result, besides its logs."""
OUT_OF_MEMORY = "out of memory"


class WorkStopped(Exception):
    """Some of the work is done and kept, the rest cannot be done; the text is one sentence."""


@dataclass(frozen=True)
class Failure:
    """Why a run failed, in one sentence, and whether more memory would have helped."""

    reason: str
    out_of_memory: bool = False

    @property
    def status(self) -> str:
        """What a ledger says of it."""
        return OUT_OF_MEMORY if self.out_of_memory else "failed"

    def write(self, folder: Path) -> None:
        """Leave it in the run folder."""
        write_text(folder / FAILURE, json.dumps(asdict(self), ensure_ascii=False) + "\n")

    @staticmethod
    def forget(folder: Path) -> None:
        """A new attempt begins."""
        (folder / FAILURE).unlink(missing_ok=True)

    @classmethod
    def left_in(cls, folder: Path) -> Failure | None:
        """What the last attempt left, if it failed and could still say why."""
        try:
            return cls(**read_json(folder / FAILURE))
        except (OSError, ValueError, TypeError):
            return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, Python's or torch's, could not give what was asked for."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)


def sentence(error: BaseException) -> str:
    """What an error says, in one line; that memory was short comes first."""
    said = reason(error, MOST)
    return f"{OUT_OF_MEMORY}: {said}" if is_out_of_memory(error) else said


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error only says that another rank of the job is gone."""
    return "DistError" in {cls.__name__ for cls in type(error).__mro__} or "/gloo/" in str(error)


def kernel_kills() -> int:
    """How often Linux has ended a process of this machine for want of memory."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
