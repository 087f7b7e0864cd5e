"""One writer per folder. Readers need no lock.

The system frees a lock when its holder ends in any way. The next holder reuses a leftover lock file
and removes it at its end.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pixelwizard.config.schema import ConfigError, show

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
        if _is_same(descriptor, file):
            return descriptor
        os.close(descriptor)  # its holder removed it between the two calls


def _is_same(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


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
