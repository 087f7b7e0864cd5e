"""SIGINT, SIGTERM and SIGHUP: the request to stop, handled once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_SECONDS = 5.0
"""Signals that follow each other faster mean the same wish to stop."""
AGAIN_SECONDS = 0.02
"""How soon a signal that was dropped is sent again."""


class Interrupted(BaseException):
    """A signal asked the run to stop. Not an Exception, so no prompt fails by it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number, self.exit_code = number, 128 + number


@contextlib.contextmanager
def on_interrupt(act: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Each wish to stop calls ``act`` with the signal's number; only the main thread hears any.

    Yields what makes the next signal a new wish, however soon it comes.
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
def interruptible() -> Iterator[None]:
    """Raise ``Interrupted`` on a request to stop; repeated signals do not disturb the cleanup.

    Python drops what is raised while it destroys an object; the signal is then sent once more.
    """

    def stop(number: int) -> None:
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
            yield
        finally:
            sys.unraisablehook = unraisable
