"""This process: its streams and exit codes, the signals it hears, its cores and memory."""

from __future__ import annotations

import contextlib
import gc
import io
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

USER_ERROR, SOME_FAILED = 2, 3
"""Exit codes; 1 is a defect, and 128 + a signal's number an interruption."""


class _Pipe(io.FileIO):
    """A stream that discards its output once its reader is gone or its disk is full."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self.fileno())
            os.close(nothing)
            if isinstance(error, BrokenPipeError):
                return len(data)
            raise


def settle_streams() -> None:
    """Make print safe in this process, for its whole life; the first thing that a program does.

    A reader that is gone (``| head -1``), a closed stream and an encoding without the text's
    letters lose what would be printed, nothing else. Streams that somebody replaced are left alone.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        return
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets this number
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        binary = io.BufferedWriter(_Pipe(number, "w", closefd=False))
        encoding = old.encoding if old is not None else "utf-8"
        lines = number == 2 or os.isatty(number)
        new = io.TextIOWrapper(binary, encoding, "backslashreplace", line_buffering=lines)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_SECONDS = 5.0
"""Signals that follow each other faster count as one request to stop."""
AGAIN_SECONDS = 0.02
"""How soon a signal that was dropped is sent again."""


class ProcessLost(RuntimeError):
    """A helper process was ended by a signal; the text is one sentence."""


class Interrupted(BaseException):
    """A signal asked the run to stop. Not an Exception, so no prompt fails by it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number, self.exit_code = number, 128 + number


@contextlib.contextmanager
def on_interrupt(act: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Call ``act`` with the signal's number on every request to stop, in the main thread only.

    Yields a function after which the next signal is a new request, however soon it comes.
    """
    last = float("-inf")

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= REPEAT_SECONDS:
            act(number)

    def forget() -> None:
        nonlocal last
        last = float("-inf")

    if threading.current_thread() is not threading.main_thread():
        yield forget
        return
    before = [signal.signal(number, hear) for number in SIGNALS]
    try:
        yield forget
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Raise ``Interrupted`` on a request to stop; repeated signals do not disturb the cleanup.

    Python drops exceptions raised while it destroys an object; the signal is then sent again. A
    library may turn the exception into another error while it is imported; that error becomes
    ``Interrupted`` again. Yields the signals received.
    """
    heard: list[int] = []

    def stop(number: int) -> None:
        heard.append(number)
        raise Interrupted(number)

    def dropped(error: sys.UnraisableHookArgs) -> None:
        if not isinstance(error.exc_value, Interrupted):
            return unraisable(error)
        forget()
        number = error.exc_value.number
        threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number)).start()

    unraisable = sys.unraisablehook
    with on_interrupt(stop) as forget:
        sys.unraisablehook = dropped
        try:
            yield heard
        except Exception as error:
            if heard:
                raise Interrupted(heard[0]) from error
            raise
        finally:
            sys.unraisablehook = unraisable


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """A context for a worker's imports, whose objects stay: garbage collection ignores them.

    torch and Lightning make a million, and each walk through them takes half a second. Outside of
    a worker nothing changes, because other garbage would stay too.
    """
    from multiprocessing import parent_process  # the command line does without it

    if parent_process() is None:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


GROUPS, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores of this process's affinity, or fewer where a control group (Linux) has a CPU quota."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas())])


def _quotas() -> Iterator[float]:
    """The quotas of this process's control groups, in cores; both versions of the interface."""
    try:
        lines = GROUPS.read_text("ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _limits(MOUNT, group, ("cpu.max",))
        elif "cpu" in controllers.split(","):
            yield from _limits(MOUNT / "cpu", group, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def _limits(mount: Path, group: str, names: tuple[str, ...]) -> Iterator[float]:
    """The quota of a group and of each group around it, as far as this process sees them."""
    folder = mount / group.lstrip("/")
    for place in (folder, *folder.parents[: len(folder.parts) - len(mount.parts)]):
        try:
            words = " ".join((place / name).read_text("ascii") for name in names).split()
        except OSError:
            continue
        if words[0] not in ("max", "-1"):
            yield int(words[0]) / int(words[1])


GB = 1e9
SAMPLE_SECONDS = 0.02


class PeakMemory:
    """The peak from creation to ``stop``: the GPU's memory, else this process's resident memory.

    On a CPU a thread samples it many times a second: resetting the system's counter would spoil
    measurements of the whole process.
    """

    def __init__(self) -> None:
        import torch  # whoever measures has it; who only prints need not wait for it

        gc.collect()
        self._bytes, self._stopped = 0, threading.Event()
        self._gpu = torch.cuda if torch.cuda.is_available() else None
        if self._gpu is None:
            threading.Thread(target=self._sample, daemon=True).start()
        else:
            self._gpu.empty_cache()
            self._gpu.reset_peak_memory_stats()

    def gb(self) -> float:
        """The peak so far, in GB."""
        if self._gpu is not None:
            return self._gpu.max_memory_allocated() / GB
        self._bytes = max(self._bytes, resident())
        return self._bytes / GB

    def stop(self) -> None:
        """Stop counting."""
        self._stopped.set()

    def _sample(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._bytes = max(self._bytes, resident())


def available() -> int:
    """Free bytes of the machine."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(free) * 1024
    except (OSError, ValueError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process in memory; where the system does not tell, their peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return pages * os.sysconf("SC_PAGE_SIZE")
