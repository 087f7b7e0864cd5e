"""Workers: their exit code is the job's, signals reach them once, none is left behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest

from pixelwizard.io import process
from pixelwizard.io.process import Interrupted, usable_cores
from pixelwizard.launch import processes
from pixelwizard.launch.launch import Crew, crew, launch, worker_environment
from pixelwizard.records.run_folder import LOCK, Failure, locked

TESTS = Path(__file__).parent
PARENT = """
import sys
from pathlib import Path
import test_launch
from pixelwizard.launch import processes
from pixelwizard.launch.launch import launch
processes.STOP_SECONDS = 1.0
sys.exit(launch(Path(sys.argv[1]), work=getattr(test_launch, sys.argv[2])))
"""


def ends(code: int, folder: Path) -> int:
    return code


def is_interrupted(folder: Path) -> int:
    time.sleep(20)
    return 0


def starts_processes_as_any_program(folder: Path) -> int:
    return 0 if multiprocessing.get_start_method() == folder.name else 1


def sees_its_folder_alone(folder: Path) -> int:
    outer = {"RANK", "MASTER_ADDR"} & os.environ.keys()
    return 0 if folder.name == "folder" and not outer and os.getcwd() == str(folder) else 1


def killed(folder: Path) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def second_rank_fails(folder: Path) -> int:
    rank = os.environ["RANK"]
    (folder / f"pid{rank}").write_text(str(os.getpid()))
    if rank == "1":
        print("rank 1 has a reason")
        return 5
    time.sleep(60)
    return 0


def says(folder: Path) -> int:
    """The second rank has a sentence; with ``leaves`` in the folder a rank leaves its own."""
    rank = int(os.environ["RANK"])
    if rank:
        print("pixelwizard: no device")
    if (folder / "leaves").exists():
        Failure("numbers ran out").write(folder)
        return 3 * rank
    return 2 * rank


def waits(folder: Path) -> int:
    """Notes each signal, then ends in its own time."""

    def stop(number: int, frame: object) -> None:
        with (folder / "got").open("a") as file:
            file.write(f"{number}\n")
        time.sleep(0.3)
        sys.exit(1)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return 0


def first_rank_stops_late(folder: Path) -> int:
    """At a signal the second rank ends at once, the first one has something to finish."""
    if os.environ["RANK"] == "1":
        time.sleep(60)
    with locked(folder):
        (folder / "pid").write_text(str(os.getpid()))
        try:
            time.sleep(60)
        except Interrupted:
            time.sleep(0.3)
            (folder / "finished").touch()
            raise
    return 0


def killed_while_writing(folder: Path) -> int:
    with locked(folder):
        (folder / f"video.{platform.node()}.{os.getpid()}.part").touch()
        return killed(folder)


def computes(folder: Path) -> int:
    """Native code that hears no signal."""
    (folder / "pid").write_text(str(os.getpid()))
    library = ctypes.CDLL(None)
    for number in (signal.SIGINT, signal.SIGTERM):
        library.signal(number, ctypes.c_void_p(1))  # ignored, whatever Python wants
    library.poll(None, 0, 60_000)
    return 0


def server_dies_once(folder: Path) -> int:
    if (folder / "again").exists():
        return 0
    (folder / "again").write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return 0


def server_dies(folder: Path) -> int:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return 0


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


def ended(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def parent(folder: Path, work: Callable[[Path], int]) -> subprocess.Popen[bytes]:
    """A process that launches ``work``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    program = [sys.executable, "-c", PARENT, str(folder), work.__name__]
    return subprocess.Popen(program, env=environment)


@pytest.fixture
def bare_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers come from a server that imports nothing first."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    monkeypatch.setattr(processes, "PRELOADED", "os")
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_of_the_worker_is_the_jobs(tmp_path: Path, code: int) -> None:
    assert launch(tmp_path, work=partial(ends, code)) == code


def test_the_worker_gets_the_run_folder_and_nothing_of_an_outer_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    assert launch(folder, work=sees_its_folder_alone) == 0


def test_processes_of_a_worker_start_as_in_any_program(tmp_path: Path) -> None:
    folder = tmp_path / multiprocessing.get_context().get_start_method()
    folder.mkdir()
    assert launch(folder, work=starts_processes_as_any_program) == 0


def test_a_killed_worker_is_reported_with_its_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(tmp_path, work=killed) == 128 + signal.SIGKILL
    assert "SIGKILL ended the worker" in capsys.readouterr().err


def test_the_first_rank_that_fails_ends_the_others(
    bare_server: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(tmp_path, ranks=2, work=second_rank_fails) == 5
    assert "rank 1 has a reason" in capsys.readouterr().err
    pids = [int(path.read_text()) for path in tmp_path.glob("pid*")]
    assert not any(alive(pid) for pid in pids)


def test_the_sentence_of_a_rank_is_kept_unless_a_rank_left_its_own(
    bare_server: None, tmp_path: Path
) -> None:
    Failure("what ended it the last time").write(tmp_path)
    assert launch(tmp_path, ranks=2, work=says) == 2
    assert Failure.left_in(tmp_path) == Failure("no device")
    (tmp_path / "leaves").touch()
    assert launch(tmp_path, ranks=2, work=says) == 3
    assert Failure.left_in(tmp_path) == Failure("numbers ran out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_worker_once_and_waits_for_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    launcher = parent(tmp_path, waits)
    worker = int(wait_for(tmp_path / "pid"))
    launcher.send_signal(number)
    assert launcher.wait(20) == 128 + number
    assert (tmp_path / "got").read_text().split() == [str(int(number))]
    assert not alive(worker)


def test_an_interrupted_rank_may_finish_though_another_has_ended(
    bare_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixelwizard.launch.launch.GRACE_SECONDS", 0.0)

    def interrupt(ours: Crew) -> None:
        wait_for(tmp_path / "pid")
        ours.stop(signal.SIGINT)

    with crew() as ours:
        threading.Thread(target=interrupt, args=[ours]).start()
        assert launch(tmp_path, ranks=2, work=first_rank_stops_late) == 130
    assert (tmp_path / "finished").exists() and not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("forked", [False, True])
def test_a_signal_waits_until_a_new_worker_can_answer(
    bare_server: None, tmp_path: Path, forked: bool
) -> None:
    environment = worker_environment(0, 1, 0)
    worker = processes.start(is_interrupted, tmp_path, environment, None, forked)
    os.kill(worker.pid or 0, signal.SIGINT)
    worker.join(20)
    assert worker.exitcode == 130


def test_the_lock_and_half_written_files_of_a_killed_worker_are_removed(tmp_path: Path) -> None:
    assert launch(tmp_path, work=killed_while_writing) == 128 + signal.SIGKILL
    assert not list(tmp_path.glob("*.part")) and not (tmp_path / LOCK).exists()


def test_a_worker_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    launcher = parent(tmp_path, computes)
    worker = int(wait_for(tmp_path / "pid"))
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(20) == 130 and not alive(worker)


@pytest.mark.parametrize("work", [waits, computes])
def test_no_worker_outlives_a_launcher_that_is_killed(
    tmp_path: Path, work: Callable[[Path], int]
) -> None:
    launcher = parent(tmp_path, work)
    worker = int(wait_for(tmp_path / "pid"))
    launcher.kill()
    launcher.wait()
    assert ended(worker, 15)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_a_server_that_dies_is_started_again_once(
    bare_server: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with crew(forked=True):
        assert launch(tmp_path, work=server_dies_once) == 0
        assert not alive(int((tmp_path / "again").read_text()))
        assert launch(tmp_path, work=server_dies) == 128 + signal.SIGKILL
    assert "SIGKILL ended the worker" in capsys.readouterr().err


def test_workers_import_from_where_this_process_does_but_not_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/a", "/venv/site-packages", str(tmp_path)])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    checkout = str(TESTS.parent)
    assert processes.search_path() == ["/a", checkout, "/venv/site-packages"]
    monkeypatch.setenv("PYTHONPATH", ".")
    assert processes.search_path()[0] == str(tmp_path)


def test_threads_are_the_cores_of_the_affinity_and_the_quota_shared_by_ranks_and_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MOUNT", tmp_path)
    monkeypatch.setattr(process, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usable_cores() == 16
    (tmp_path / "groups").write_text("4:cpu,cpuacct:/jobs/mine\n0::/slice\n")
    (tmp_path / "slice").mkdir()
    (tmp_path / "slice" / "cpu.max").write_text("max 100000\n")
    assert usable_cores() == 16
    (tmp_path / "cpu.max").write_text("1150000 100000\n")  # of the group around it
    assert usable_cores() == 12
    (tmp_path / "cpu" / "jobs").mkdir(parents=True)
    (tmp_path / "cpu" / "jobs" / "cpu.cfs_quota_us").write_text("800000\n")
    (tmp_path / "cpu" / "jobs" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == 8
    assert worker_environment(0, 2, 1, at_once=2)["OMP_NUM_THREADS"] == "2"
    assert worker_environment(0, 16, 1)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert worker_environment(0, 2, 1)["OMP_NUM_THREADS"] == "5"
    assert worker_environment(0, 1, 0)["OMP_WAIT_POLICY"] == "PASSIVE"
