"""The terminal's streams: a closed pipe or an ASCII terminal stops no run."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


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
