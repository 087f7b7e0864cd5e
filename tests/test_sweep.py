"""Sweeps survive: a job concerns itself alone, and the same command ends in the same files."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest
from small import small_config, write_backbone, write_config
from test_interrupt import PRELOAD, files

from pixelwizard import worker
from pixelwizard.cli.sweeps import ledger
from pixelwizard.cli.sweeps.ledger import Ended, SweepJob, job_name, run_sweep
from pixelwizard.cli.tasks import generate
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.launch import launch as launching
from pixelwizard.launch.launch import crew, launch
from pixelwizard.records import run_folder
from pixelwizard.records.run_folder import Failure, locked

TWO = SamplerSettings(steps=2, step_sizes="raw")
RUNS = ((TWO, 0), (TWO, 1), (SamplerSettings(steps=3, solver="euler"), 1))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def jobs_of(backbone: BackboneSettings, folder: Path) -> dict[str, SweepJob]:
    """Three runs of a prompt, two of them with the same anchor, and a store of their own."""
    jobs = {}
    for schedule, seed in RUNS:
        swept = (f"schedule={schedule.solver}", f"seed={seed}")
        config = small_config(
            backbone,
            folder,
            run_dir=str(folder / "sweep" / job_name(swept)),
            schedule=schedule,
            seed=seed,
            prompt=["a red circle"],
        )
        jobs[job_name(swept)] = SweepJob("generate", config, swept, ("pixelwizard", "-m"))
    return jobs


def child(backbone: BackboneSettings, folder: Path) -> None:
    """The sweep in a process of its own, with its workers inside: SIGKILL ends all of it."""
    launching.launch = lambda folder, _: worker.run(folder)  # type: ignore[assignment]
    sys.exit(run_sweep(folder / "sweep", jobs_of(backbone, folder)))


def start(backbone: BackboneSettings, folder: Path) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, "test_sweep"])
    process = context.Process(target=child, args=(backbone, folder))
    process.start()
    return process  # type: ignore[return-value]


def count(folder: Path) -> int:
    """How many files a sweep has written, half-written ones included."""
    return sum(path.is_file() for path in folder.rglob("*"))


def results(folder: Path, job: SweepJob) -> dict[str, bytes]:
    """Every tensor and video of the sweep, without what timing notes beside them."""
    return files(replace(job.config, run_dir=str(folder / "sweep")))


def test_three_kills_at_random_moments_change_nothing(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    calm = start(backbone, undisturbed)
    calm.join(300)
    moments = sorted(random.Random(7).sample(range(1, count(undisturbed)), 3))
    for moment in moments:
        process = start(backbone, killed)
        while process.is_alive() and count(killed) < moment:
            time.sleep(0.005)
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    last = start(backbone, killed)
    last.join(300)
    assert (calm.exitcode, last.exitcode) == (0, 0)
    jobs = jobs_of(backbone, killed)
    job = next(iter(jobs.values()))
    found = results(killed, job)
    assert found == results(undisturbed, next(iter(jobs_of(backbone, undisturbed).values())))
    assert sum(name.startswith("anchor/") for name in found) == 2  # one per seed
    ledger = json.loads((killed / "sweep" / "sweep.json").read_text())["jobs"]
    assert list(ledger) == list(jobs)
    assert {state["status"] for state in ledger.values()} == {"done"}


@pytest.fixture
def forked() -> Iterator[None]:
    """Workers come from a server that starts where their words are heard."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    with crew(forked=True):
        yield


def test_a_forked_worker_ends_alone_and_says_why(
    backbone: BackboneSettings, forked: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small_config(backbone, tmp_path)
    bad = write_config(
        replace(config, run_dir=str(tmp_path / "bad"), prompt=[], prompts="gone.txt")
    )
    assert launch(bad) == 2
    failure = Failure.left_in(bad)
    assert failure is not None and "gone.txt" in failure.reason and not failure.out_of_memory
    assert "pixelwizard: " in capfd.readouterr().err
    assert launch(write_config(config)) == 0


def test_an_interrupt_reaches_a_forked_worker_and_no_job_follows(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    steps = SamplerSettings(steps=1000)
    folder = write_config(small_config(backbone, tmp_path, anchor=steps))

    def interrupt() -> None:
        while not (folder / "run.log").is_file():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with crew(forked=True):
        assert launch(folder) == 143
        assert not (folder / "failure.json").exists()
        assert launch(tmp_path / "nothing") == 143


def fakes(folder: Path, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int]) -> list[str]:
    """Make ``generate`` end with a code by job; the names of those that ran."""
    ran: list[str] = []

    def run(config: object, command_line: object) -> int:
        name = Path(config.run_dir).name  # type: ignore[attr-defined]
        ran.append(name)
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.yaml").touch()
        return codes.get(name, 0)

    fake = replace(generate.COMMAND, run=run, finished=lambda config: True)
    monkeypatch.setattr(generate, "COMMAND", fake)
    return ran


def plain_jobs(backbone: BackboneSettings, folder: Path) -> dict[str, SweepJob]:
    names = [f"seed={seed}" for seed in range(3)]
    config = small_config(backbone, folder)
    return {
        name: SweepJob("generate", replace(config, run_dir=str(folder / name)), (name,), ())
        for name in names
    }


def test_the_ledger_tells_failed_from_out_of_memory_and_why(
    backbone: BackboneSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs, kills = plain_jobs(backbone, tmp_path), iter(range(10))
    monkeypatch.setattr(ledger, "kernel_kills", lambda: next(kills))
    ran = fakes(tmp_path, monkeypatch, {"seed=0": 137, "seed=1": 3})
    (tmp_path / "seed=1").mkdir()
    Failure("prompt a failed: detail: no").write(tmp_path / "seed=1")
    assert run_sweep(tmp_path, jobs) == 3
    states = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert [state["status"] for state in states.values()] == ["out of memory", "failed", "done"]
    assert states["seed=1"]["reason"] == "prompt a failed: detail: no"
    said = capsys.readouterr()
    assert "[2/3] seed=1: failed: prompt a failed: detail: no\n" in said.out
    assert "2 of 3 jobs failed:" in said.err
    assert "seed=0: out of memory: SIGKILL ended the worker" in said.err
    ran.clear()
    fakes_again = fakes(tmp_path, monkeypatch, {})
    assert run_sweep(tmp_path, jobs) == 0 and fakes_again == ["seed=0", "seed=1"]


def test_a_job_whose_results_are_gone_runs_again(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = plain_jobs(backbone, tmp_path)
    ran = fakes(tmp_path, monkeypatch, {})
    assert run_sweep(tmp_path, jobs) == 0 and len(ran) == 3
    (tmp_path / "seed=1" / "config.yaml").unlink()
    assert run_sweep(tmp_path, jobs) == 0 and ran[3:] == ["seed=1"]


def test_two_sweeps_in_one_folder_are_refused(backbone: BackboneSettings, tmp_path: Path) -> None:
    in_use = rf"sweep_dir={tmp_path} is in use by process {os.getpid()} .*train"
    with locked(tmp_path, "pixelwizard -m train"), pytest.raises(ConfigError, match=in_use):
        run_sweep(tmp_path, plain_jobs(backbone, tmp_path))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"jobs": [1]}', '{"jobs": {"seed=0": 3}}', "[" * 100_000, "\0"]
)
def test_a_damaged_ledger_is_named_in_one_sentence(
    backbone: BackboneSettings, tmp_path: Path, text: str
) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(ConfigError, match=r"sweep.json is damaged: [^\n]+; remove it$"):
        run_sweep(tmp_path, plain_jobs(backbone, tmp_path))
    assert (tmp_path / "sweep.json").read_text() == text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), True),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert run_folder.is_out_of_memory(error) is expected


def test_the_store_says_what_it_saved(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    costs = {"anchor": {"seconds": 2.5, "reused": True}, "detail": {"seconds": 9, "reused": False}}
    (tmp_path / "videos" / "a.json").write_text(json.dumps({"stages": costs}))
    (tmp_path / "videos" / "b.json").write_text('{"stages": [')
    assert ledger.saved([tmp_path, tmp_path]).startswith("the store saved 5.0 s: 2 x anchor (5.0")
    assert ledger.saved([tmp_path / "nothing"]) == ""
    assert Ended(0).state == {"status": "done"}
