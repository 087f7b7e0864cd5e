"""The Python interface and the command line are one: same folder, same videos, same refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from small import SIZE, write_backbone

import pixelwizard as pw
from pixelwizard import worker
from pixelwizard.cli.main import main
from pixelwizard.config.schema import ConfigError
from pixelwizard.records.run_folder import Failure

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = ["experiments=small", "run_dir=run", "anchor.steps=2", "schedule.steps=2"]
PROMPTS = ["a red circle", "a blue square moves left"]


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with an experiment that selects a backbone of random weights."""
    folder = tmp_path_factory.mktemp("api")
    backbone = asdict(write_backbone(folder / "weights"))
    values = {"backbone": backbone, "resolution": asdict(SIZE), "tracker": {"kind": "none"}}
    (folder / "experiments").mkdir()
    text = "# @package _global_\n" + yaml.safe_dump(values)
    (folder / "experiments" / "small.yaml").write_text(text)
    return folder


def test_generate_returns_the_finished_run(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work_dir)
    run = pw.generate(OVERRIDES, PROMPTS)
    assert run.folder == work_dir / "run" and not run.failed and run.metrics == {}
    assert [p["prompt"] for p in run.provenance.values()] == PROMPTS
    before = {path: path.stat().st_mtime_ns for path in run.videos.values()}
    assert len(before) == 2 and all(path.stat().st_size for path in before)

    words = [word for text in PROMPTS for word in ("--prompt", text)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "pixelwizard", *words, *OVERRIDES]
    again = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in run.videos.values()} == before
    for path in run.videos.values():
        assert str(path) in again.stdout


def test_a_mistake_is_a_value_error(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work_dir)
    with pytest.raises(ConfigError, match="did you mean schedule.steps"):
        pw.generate(["schedule.stepz=3"])
    with pytest.raises(ConfigError, match="--prompt number 1 is empty"):
        pw.generate(OVERRIDES, [" "])
    with pytest.raises(ConfigError, match="several values"):
        pw.generate(["seed=0,1"])


def test_several_ranks_are_processes_and_one_that_is_lost_is_an_error(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work_dir)
    code, ranks = 3, []

    def lost(folder: Path, world: int) -> int:
        ranks.append(world)
        Failure("SIGKILL ended rank 1").write(folder)
        return code

    monkeypatch.setattr("pixelwizard.api.launch", lost)
    overrides = [*OVERRIDES[:1], "run_dir=ranks", "parallel=prompts", "parallel.prompts=2"]
    with pytest.raises(ValueError, match="SIGKILL ended rank 1"):
        pw.generate(overrides, PROMPTS)
    code = 130
    with pytest.raises(KeyboardInterrupt):
        pw.generate(overrides, PROMPTS)
    assert ranks == [2, 2]


def test_an_interrupted_command_continues(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--prompt", "a red circle", *OVERRIDES, "run_dir=stopped"]
    words += ["store.dir=own", "anchor.steps=60"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "pixelwizard", *words]
    started = subprocess.Popen(program, cwd=work_dir, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list((work_dir / "own").rglob("*.safetensors")):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    error = started.communicate(timeout=60)[1].decode()
    assert started.returncode == 130
    assert "Traceback" not in error and "the same command continues" in error
    assert not list((work_dir / "stopped" / "videos").glob("*.mp4"))
    monkeypatch.chdir(work_dir)
    monkeypatch.setattr("pixelwizard.launch.launch.launch", lambda folder, _: worker.run(folder))
    assert main(words) == 0
    assert len(list((work_dir / "stopped" / "videos").glob("*.mp4"))) == 1
