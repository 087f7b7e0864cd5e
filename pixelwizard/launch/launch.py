"""Start the workers of one job, watch them, report the first failure."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from pixelwizard.config.schema import ConfigError
from pixelwizard.io.files import remove_unfinished
from pixelwizard.io.process import SOME_FAILED, on_interrupt, usable_cores
from pixelwizard.io.terminal import say
from pixelwizard.launch import processes
from pixelwizard.launch.processes import SERVER_GONE, Work
from pixelwizard.records.run_folder import CONFIG, Failure, locked
from pixelwizard.worker import run as run_worker

INHERITED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}
INHERITED |= {"GROUP_RANK", "LOCAL_WORLD_SIZE"}
POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0
RESTART_SECONDS = 1.0
"""Until a server that was killed has left the system's table of processes."""
TAIL_LINES = 20
KEPT = "everything finished is kept, the same command continues"


@dataclass
class Crew:
    """The workers that this process has, and the signal that asked it to stop (0: none has).

    ``at_once`` jobs share the cores; ``forked`` workers come from a server that starts them fast.
    """

    at_once: int = 1
    forked: bool = False
    workers: list[BaseProcess] = field(default_factory=list)
    stopped: int = 0
    deadline: float = float("inf")

    def stop(self, number: int) -> None:
        """Pass on a signal; the second one kills."""
        self.deadline = time.monotonic() + (0.0 if self.stopped else processes.STOP_SECONDS)
        self.stopped = self.stopped or number
        _send(self.workers, self.stopped)


_crews: list[Crew] = []


@contextmanager
def crew(at_once: int = 1, forked: bool = False) -> Iterator[Crew]:
    """The crew of this process; the jobs of a sweep share the sweep's, also across threads."""
    if _crews:
        yield _crews[0]
        return
    ours = Crew(at_once, forked)
    _crews.append(ours)
    try:
        with on_interrupt(ours.stop):
            yield ours
    finally:
        _crews.remove(ours)


def launch(run_dir: Path, ranks: int = 1, work: Work | None = None) -> int:
    """``work(run_dir)`` in a process for each rank, until all have ended; the job's exit code.

    Without ``work`` it is the task of the folder, as it is configured at this moment. The first
    rank that fails ends the others and decides the code; of several ranks one that was killed makes
    it 3. A signal is passed on to the workers, which finish what must not be torn; the code is then
    128 + signal. A second signal kills them, and so does time. No worker outlives this call, nor
    this process. Raises ConfigError inside a process of torchrun.
    """
    _refuse_torchrun(run_dir, ranks)
    if work is None:  # another command may claim the folder before the worker has locked it
        config = run_dir / CONFIG
        work = partial(run_worker, claimed=config.read_text("utf-8") if config.is_file() else "")
    with crew() as ours:
        code, rank = _attempt(ours, work, run_dir, ranks)
        if code == SERVER_GONE and not ours.stopped:
            time.sleep(RESTART_SECONDS)
            code, rank = _attempt(ours, work, run_dir, ranks)
        if ours.stopped:
            if code == -signal.SIGKILL:
                say(f"what did not stop was killed; {KEPT}")
            return 128 + ours.stopped
    if code == SERVER_GONE:
        code = -signal.SIGKILL
    if code:
        _explain(code, rank, ranks, run_dir)
    if code < 0:
        return SOME_FAILED if ranks > 1 else 128 - code
    return code


def worker_environment(rank: int, ranks: int, port: int, at_once: int = 1) -> dict[str, str]:
    """The environment of one rank: nothing of an outer launcher, its share of the cores.

    Threads wait without spinning, as other jobs may want the core.
    """
    environment = {key: value for key, value in os.environ.items() if key not in INHERITED}
    threads = max(1, usable_cores() // (ranks * at_once))
    usual = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONSAFEPATH": "1"}
    environment = usual | environment
    if ranks > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        environment |= {"WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {"LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    return environment


def _refuse_torchrun(run_dir: Path, ranks: int) -> None:
    """Refuse to run under torchrun: two launchers would start ranks of ranks."""
    started = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ or (ranks > 1 and started != "1"):
        raise ConfigError(
            f"this process is one of {started} that torchrun started, and pixelwizard starts its"
            f" ranks itself; run it without torchrun, or: torchrun ... -m pixelwizard.worker"
            f" {run_dir}"
        )


def _attempt(ours: Crew, work: Work, run_dir: Path, ranks: int) -> tuple[int, int]:
    """Start the ranks and wait for them: (exit code, rank) as ``_watch`` has it."""
    Failure.forget(run_dir)  # before any rank can leave one
    started: list[BaseProcess] = []
    port = _free_port() if ranks > 1 else 0
    try:
        for rank in range(0 if ours.stopped else ranks):
            log = run_dir / f"rank{rank}.log" if rank else None
            if log is not None:
                log.write_bytes(b"")
            environment = worker_environment(rank, ranks, port, ours.at_once)
            forked = ours.forked or ranks > 1
            started.append(processes.start(work, run_dir, environment, log, forked))
            ours.workers.append(started[-1])
            if ours.stopped:  # the signal came before there was a worker to pass it on to
                _send(started[-1:], ours.stopped)
        return _watch(started, ours)
    except (ConnectionError, EOFError):
        return SERVER_GONE, 0
    finally:
        _end(started)
        if any(worker.exitcode in (-signal.SIGKILL, SERVER_GONE) for worker in started):
            _clear(run_dir)
        for worker in started:
            ours.workers.remove(worker)


def _watch(workers: Sequence[BaseProcess], ours: Crew) -> tuple[int, int]:
    """Wait until all have ended or one has failed: (exit code, rank), code < 0 for a signal.

    After an interruption each may end in its own time.
    """
    while True:
        codes = [worker.exitcode for worker in workers]
        failed = [(code, rank) for rank, code in enumerate(codes) if code]
        if all(code is not None for code in codes) or (failed and not ours.stopped):
            return min(failed, default=(0, 0))  # a killed one comes before those who miss it
        if time.monotonic() >= ours.deadline:  # they have not stopped in time
            _send(ours.workers, signal.SIGKILL)
        wait([worker.sentinel for worker in workers if worker.exitcode is None], POLL_SECONDS)


def _send(workers: Sequence[BaseProcess], number: int) -> None:
    """Send a signal to the workers that are not known to have ended."""
    for worker in workers:
        if worker.exitcode in (None, SERVER_GONE):
            with suppress(ProcessLookupError):
                os.kill(worker.pid or 0, number)


def _end(workers: Sequence[BaseProcess]) -> None:
    """Terminate running workers, then kill those that remain."""
    _send(workers, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    _send(workers, signal.SIGKILL)
    for worker in workers:
        worker.join()


def _clear(folder: Path) -> None:
    """Remove the lock and the half-written files of killed workers; a lock in use stays."""
    with suppress(ConfigError, OSError), locked(folder):
        remove_unfinished(folder, "**/*")


def _explain(code: int, rank: int, ranks: int, run_dir: Path) -> None:
    """Say what a worker could not say itself: one without a terminal, or one that was killed."""
    log = run_dir / f"rank{rank}.log"
    if rank and log.is_file():
        lines = log.read_text("utf-8", "replace").splitlines()
        said = [line for line in lines if line.startswith("pixelwizard: ")]
        print("\n".join(said or lines[-TAIL_LINES:]), file=sys.stderr)
        if said and Failure.left_in(run_dir) is None:  # or the first rank, starting late, forgot it
            Failure(said[-1].removeprefix("pixelwizard: ")).write(run_dir)
    if code < 0:
        worker = f"rank {rank}" if ranks > 1 else "the worker"
        hint = "; the machine may be out of memory" if -code == signal.SIGKILL else ""
        kept = f"; {KEPT}" if ranks > 1 else ""
        name = signal.Signals(-code).name
        if ranks > 1:
            Failure(f"{name} ended {worker}").write(run_dir)
        say(f"{name} ended {worker} of {run_dir}{hint}{kept}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
