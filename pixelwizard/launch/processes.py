"""Worker processes: how they start, and that they end with the process that started them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pixelwizard
from pixelwizard.io.process import SIGNALS, Interrupted, interruptible, settle_streams

Work = Callable[[Path], int]
STOP_SECONDS = 60.0
"""How long a worker that was asked to stop may take before it is killed."""
WATCH_SECONDS = 1.0
PRELOADED = "pixelwizard.launch.preloaded"
SERVER_GONE = 255
"""What multiprocessing gives as the exit code of a worker whose server died."""
_starting = threading.Lock()


def start(
    work: Work, run_dir: Path, environment: dict[str, str], log: Path | None, forked: bool
) -> BaseProcess:
    """``work(run_dir)`` in a process with a new session; its return value is the exit code.

    ``forked`` takes it from a server that has imported everything, on Linux, where that is sound.
    Raises ConnectionError or EOFError if that server dies meanwhile.
    """
    forked = forked and sys.platform == "linux"
    context = multiprocessing.get_context("forkserver" if forked else "spawn")
    if forked:
        context.set_forkserver_preload([PRELOADED])
    given = (work, run_dir, environment, os.getcwd(), search_path(), log, STOP_SECONDS)
    process: BaseProcess = context.Process(target=_work, args=given)  # type: ignore[attr-defined]
    with _starting, _apart(environment):
        resource_tracker.ensure_running()  # starting it later would unblock signals
        with _blocked():  # the worker, or the server and all its workers, can answer only later
            if forked:
                forkserver.ensure_running()
            else:
                process.start()
        if forked:  # this waits for the server's imports, so not while signals are blocked
            process.start()
    return process


@contextmanager
def _blocked() -> Iterator[None]:
    """Within it this thread, and what it starts, keeps signals for later."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def search_path() -> list[str]:
    """The import path of a worker: this process's, with this very package.

    Not from the working directory, unless PYTHONPATH names it: a ``random.py`` there is no module.
    """
    here = os.getcwd()
    named = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    path = [p for p in map(os.path.abspath, sys.path) if p != here or p in named]
    installed = [i for i, p in enumerate(path) if p.endswith(("site-packages", "dist-packages"))]
    place, own = min(installed, default=len(path)), str(Path(pixelwizard.__file__).parents[1])
    return path if own in path[: place + 1] else [*path[:place], own, *path[place:]]


@contextmanager
def _apart(environment: dict[str, str]) -> Iterator[None]:
    """Within it, new Python processes get ``environment`` and no working directory on the path.

    Nor does it run the script that called us again, as multiprocessing would.
    """
    main, folder, before = sys.modules["__main__"], os.getcwd(), dict(os.environ)
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ.update(environment, PYTHONPATH=os.pathsep.join(search_path()))
    if sys.version_info < (3, 11):  # PYTHONSAFEPATH is not known
        os.chdir(os.path.dirname(os.__file__))
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(before)


def _work(
    work: Work,
    run_dir: Path,
    environment: dict[str, str],
    folder: str,
    path: list[str],
    log: Path | None,
    patience: float,
) -> None:
    threading.Thread(target=_end_with_parent, args=(patience,), daemon=True).start()
    with suppress(OSError):  # Ctrl-C reaches it once, through its parent
        os.setsid()
    multiprocessing.set_start_method(None, force=True)  # the platform's: loaders may have workers
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    if log is not None:
        place = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(place, 1)
        os.dup2(place, 2)
    settle_streams()
    gc.freeze()  # memory shared with the server stays shared as long as nobody counts through it
    if "torch" in sys.modules:  # it has read the server's environment
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        with interruptible():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = work(run_dir)
    except Interrupted as interruption:  # before the work could answer it
        code = interruption.exit_code
    sys.exit(code)


def _end_with_parent(patience: float) -> None:
    """Stop this process once its parent, or the server between them, is gone.

    A thread, so it works during native code too.
    """
    parent, server = multiprocessing.parent_process(), os.getppid()
    assert parent is not None
    while parent.is_alive() and os.getppid() == server:
        parent.join(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience)
    os.kill(os.getpid(), signal.SIGKILL)
