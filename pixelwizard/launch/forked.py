"""Workers that a server forks (``forkserver.py``), handled as if they were started here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

SERVER = (sys.executable, "-m", "pixelwizard.launch.forkserver")


class Forked:
    """One worker, with what ``launch`` uses of Popen: exit codes below 0 are signals."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.reply(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code once it is there. Raises TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self.server.reply(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Pass a signal on, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The server's process; started anew by the next use if something ends it.

    It imports while this process goes on. It ends with this one, and its workers with it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._replies, self._read = -1, b""
        self._used = False
        self._process: subprocess.Popen[bytes] | None = self._start()

    def fork(self, run_dir: Path) -> Forked:
        """Start the worker of a run folder. Raises OSError if the server cannot be had."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._start()
        assert self._process.stdin is not None
        self._used = True
        self._process.stdin.write(json.dumps(str(run_dir)).encode() + b"\n")
        self._process.stdin.flush()
        pid = self.reply(None)
        if pid is None or pid <= 0:
            raise OSError("the server of the workers cannot be started")
        return Forked(self, pid)

    def reply(self, timeout: float | None) -> int | None:
        """The next number from the server, None if none came in time; its own end if it died."""
        assert self._process is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._read:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._replies], [], [], left)[0]:
                return None
            data = os.read(self._replies, 4096)
            if not data:
                return self._process.wait() or -signal.SIGKILL
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return int(line)

    def close(self) -> None:
        """End the server, if there is one; a worker that still runs ends first."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        if not self._used:  # nobody waits for what it still imports
            self._process.terminate()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        os.close(self._replies)
        self._process, self._read = None, b""

    def _start(self) -> subprocess.Popen[bytes]:
        self._replies, write = os.pipe()
        try:
            return subprocess.Popen(
                [*SERVER, str(write)],
                env=self.environment,
                stdin=subprocess.PIPE,
                pass_fds=[write],
                start_new_session=True,  # Ctrl-C reaches a worker once, through this process
            )
        finally:
            os.close(write)
