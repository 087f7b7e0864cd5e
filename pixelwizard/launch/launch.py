"""Start the workers of one job, watch them, report the first failure.

A job has fresh processes; the jobs of a sweep that have one rank are forked from a server that has
imported everything (``kept_warm``), which saves each of them the seconds of a start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Union

from pixelwizard.config.schema import ConfigError
from pixelwizard.launch.forked import Forked, ForkServer
from pixelwizard.launch.parents import die_with_parent
from pixelwizard.records.failures import Failure, forget_failure, read_failure, write_failure

WORKER = (sys.executable, "-m", "pixelwizard.worker")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INHERITED = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"}
INHERITED |= {"GROUP_RANK", "LOCAL_WORLD_SIZE"}
TORCHRUN = "TORCHELASTIC_RUN_ID"
POLL_SECONDS = 0.05
GRACE_SECONDS = 5.0
TAIL_LINES = 20
SOME_FAILED = 3
Worker = Union[subprocess.Popen[bytes], Forked]


def launch(run_dir: Path, ranks: int = 1, command: Sequence[str] = WORKER) -> int:
    """Run ``command RUN_DIR`` once per rank and wait; returns the exit code of the job.

    The first rank that fails ends the others and decides the code; of several ranks one that was
    killed makes it 3. An interrupt is passed on to the workers, which finish what must not be
    torn; the code is then 128 + signal. A second interrupt kills them. No worker outlives this
    call, nor (on Linux) this process. Raises ConfigError inside a process of torchrun.
    """
    _refuse_torchrun(run_dir, ranks)
    forget_failure(run_dir)  # before any rank can leave one
    workers: list[Worker] = []
    port = _free_port() if ranks > 1 else 0
    with ExitStack() as stack:
        received = stack.enter_context(_forwarding(workers))
        stack.callback(_end, workers)
        for rank in range(ranks):
            log = stack.enter_context(_fresh_log(run_dir, rank)) if rank else None
            if _warm and ranks == 1 and command == WORKER:
                workers.append(_warm[0].fork(run_dir))
                continue
            environment = worker_environment(rank, ranks, port)
            workers.append(_start([*command, str(run_dir)], environment, log))
        if received:  # it came before there was a worker to pass it on to
            _send(workers, received[0])
        code, rank = _watch(workers)
    if received:
        return 128 + received[0]
    if code:
        _explain(code, rank, ranks, run_dir)
    if code < 0:
        return SOME_FAILED if ranks > 1 else 128 - code
    return code


def worker_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment of one rank: nothing of an outer launcher, and this package importable."""
    environment = {key: value for key, value in os.environ.items() if key not in INHERITED}
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(checkout), *([known] if known else [])])
    if ranks > 1:
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        environment |= {"WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment |= {"LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    return environment


_warm: list[ForkServer] = []


@contextmanager
def kept_warm() -> Iterator[None]:
    """Meanwhile workers of jobs of one rank are forked; on Linux, where that is sound."""
    stay_warm()
    try:
        yield
    finally:
        while _warm:
            _warm.pop().close()


def left_to_torchrun(run_dir: Path) -> int:
    """Say how the ranks of a job are started by others; the exit code."""
    print(f"start its ranks with: torchrun --nnodes N ... -m pixelwizard.worker {run_dir}")
    return 0


def _refuse_torchrun(run_dir: Path, ranks: int) -> None:
    """Two launchers would start ranks of ranks."""
    started = os.environ.get("WORLD_SIZE", "1")
    if TORCHRUN in os.environ or (ranks > 1 and started != "1"):
        raise ConfigError(
            f"this process is one of {started} that torchrun started, and pixelwizard starts its"
            f" ranks itself; run it without torchrun, or: torchrun ... -m pixelwizard.worker"
            f" {run_dir}"
        )


def _fresh_log(run_dir: Path, rank: int) -> IO[bytes]:
    """The log of a rank, empty; its worker appends to it too."""
    path = run_dir / f"rank{rank}.log"
    path.write_bytes(b"")
    return open(path, "ab")


def stay_warm() -> None:
    """From now on ``kept_warm``, for as long as this process lives."""
    if sys.platform == "linux" and not _warm:
        _warm.append(ForkServer(worker_environment(0, 1, 0)))


def _start(command: Sequence[str], environment: dict[str, str], log: IO[bytes] | None) -> Worker:
    """One worker in a session of its own, so that Ctrl-C reaches it once, through this process."""
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT if log else None,
        start_new_session=True,
        preexec_fn=die_with_parent if sys.platform == "linux" else None,
    )


@contextmanager
def _forwarding(workers: list[Worker]) -> Iterator[list[int]]:
    """Pass signals on to the workers; yields the list of those received."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _send(workers, number if len(received) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(workers: Sequence[Worker], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def _watch(workers: Sequence[Worker]) -> tuple[int, int]:
    """Wait until all have ended or one has failed: (exit code, rank), code < 0 for a signal."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [(code, rank) for rank, code in enumerate(codes) if code]
        if failed:
            return min(failed)  # one that was killed comes before those who miss it
        if all(code is not None for code in codes):
            return 0, 0
        time.sleep(POLL_SECONDS)


def _end(workers: Sequence[Worker]) -> None:
    """Terminate what still runs, kill what does not listen."""
    _send(workers, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _explain(code: int, rank: int, ranks: int, run_dir: Path) -> None:
    """Say what a worker could not say itself: one without a terminal, or one that was killed."""
    log = run_dir / f"rank{rank}.log"
    if rank and log.is_file():
        lines = log.read_text("utf-8", "replace").splitlines()
        said = [line for line in lines if line.startswith("pixelwizard: ")]
        print("\n".join(said or lines[-TAIL_LINES:]), file=sys.stderr)
        if said and read_failure(run_dir) is None:  # or the first rank, starting late, forgot it
            write_failure(run_dir, Failure(said[-1].removeprefix("pixelwizard: ")))
    if code < 0:
        worker = f"rank {rank}" if ranks > 1 else "the worker"
        hint = "; the machine may be out of memory" if -code == signal.SIGKILL else ""
        kept = "; everything finished is kept, the same command continues" if ranks > 1 else ""
        name = signal.Signals(-code).name
        if ranks > 1:
            write_failure(run_dir, Failure(f"{name} ended {worker}"))
        print(f"pixelwizard: {name} ended {worker} of {run_dir}{hint}{kept}", file=sys.stderr)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
