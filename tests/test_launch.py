"""Workers: their exit code is the job's, interrupts reach them once, none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pixelwizard.launch.launch import launch
from pixelwizard.records.failures import Failure, read_failure, write_failure

LAUNCHER = """
import sys
from pathlib import Path
from pixelwizard.launch.launch import launch
sys.exit(launch(Path(sys.argv[1]), command=[sys.executable, "-c", sys.argv[2]]))
"""
WAITING = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (folder / "got").open("a").write(f"{number}\\n")
    time.sleep(0.3)
    sys.exit(1)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
(folder / "pid").write_text(str(os.getpid()))
time.sleep(60)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(path: Path, seconds: float = 20.0) -> str:
    deadline = time.monotonic() + seconds
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_of_the_worker_is_the_jobs(tmp_path: Path, code: int) -> None:
    assert launch(tmp_path, command=python(f"import sys; sys.exit({code})")) == code


def test_the_worker_gets_the_run_folder_and_nothing_of_an_outer_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    code = "import os, sys; sys.exit(sum(k in os.environ for k in ('RANK', 'MASTER_ADDR')))"
    assert launch(tmp_path, command=python(code)) == 0
    code = f"import sys; sys.exit(0 if sys.argv[1] == {str(tmp_path)!r} else 1)"
    assert launch(tmp_path, command=python(code)) == 0


def test_a_killed_worker_is_reported_with_its_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert launch(tmp_path, command=python(code)) == 128 + signal.SIGKILL
    assert "SIGKILL ended the worker" in capsys.readouterr().err


def test_the_first_rank_that_fails_ends_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
import os, pathlib, sys, time
rank = os.environ["RANK"]
pathlib.Path(sys.argv[1], "pid" + rank).write_text(str(os.getpid()))
if rank == "1":
    print("rank 1 has a reason")
    sys.exit(5)
time.sleep(60)
"""
    start = time.monotonic()
    assert launch(tmp_path, ranks=2, command=python(code)) == 5
    assert time.monotonic() - start < 30
    assert "rank 1 has a reason" in capsys.readouterr().err
    pids = [int(path.read_text()) for path in tmp_path.glob("pid*")]
    assert not any(alive(pid) for pid in pids)


def test_the_sentence_of_a_rank_is_kept_unless_a_rank_left_its_own(tmp_path: Path) -> None:
    write_failure(tmp_path, Failure("what ended it the last time"))
    said = "import os, sys; print('pixelwizard: no device') if os.environ['RANK'] == '1' else 0"
    code = f"{said}; sys.exit(2 * int(os.environ['RANK']))"
    assert launch(tmp_path, ranks=2, command=python(code)) == 2
    assert read_failure(tmp_path) == Failure("no device")
    left = "import pathlib; pathlib.Path(sys.argv[1], 'failure.json').write_text"
    text = '{"reason": "numbers ran out"}'
    code = f"{said}; {left}({text!r}); sys.exit(3 * int(os.environ['RANK']))"
    assert launch(tmp_path, ranks=2, command=python(code)) == 3
    assert read_failure(tmp_path) == Failure("numbers ran out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_worker_once_and_waits_for_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    parent = subprocess.Popen([*python(LAUNCHER), str(tmp_path), WAITING])
    worker = int(wait_for(tmp_path / "pid"))
    parent.send_signal(number)
    assert parent.wait(20) == 128 + number
    assert (tmp_path / "got").read_text().split() == [str(int(number))]
    assert not alive(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent")
def test_no_worker_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([*python(LAUNCHER), str(tmp_path), WAITING])
    worker = int(wait_for(tmp_path / "pid"))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
