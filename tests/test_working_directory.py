"""Files of the working directory replace no module; a class of the user's there is found."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing import forkserver
from pathlib import Path

import pytest

from pixelwizard.cli.main import main
from pixelwizard.launch import processes
from pixelwizard.launch.launch import crew, launch

NAMES = ("random", "numpy", "torch", "json", "tempfile", "socket", "multiprocessing", "wandb")
MINE = """
from pixelwizard.diffusion.solvers.euler import Euler

class Mine(Euler):
    pass
"""
SMALL = ["resolution.frames=5", "resolution.width=128", "resolution.height=64", "tracker=none"]
RUN = [*SMALL, "--prompt", "a red circle", "metrics=none", "anchor.steps=2"]
RUN += ["schedule.steps=2", "schedule.solver._target_=own_solver.Mine"]
TRAINING = ["trainer.max_steps=1", "data.count=8", "data.held_out=2", "data.shard=4"]
TRAINING += ["data.ready=4", "data.workers=1", "objective.batch=2"]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, where files have the names of modules and say if they ran."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open('{name}.ran', 'w')\nraise SystemExit(1)\n")
    (tmp_path / "own_solver.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # so that it starts here
    yield tmp_path
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    sys.path[:] = path


def found_elsewhere() -> int:
    found = [importlib.util.find_spec(name) for name in NAMES]
    return sum(spec is None or spec.origin is None or os.getcwd() in spec.origin for spec in found)


def elsewhere_in_a_process() -> None:
    sys.exit(found_elsewhere())


def looks_for_modules(folder: Path) -> int:
    """The worker and a process that it starts, as the one that encodes training clips."""
    process = multiprocessing.get_context("spawn").Process(target=elsewhere_in_a_process)
    process.start()
    process.join()
    return found_elsewhere() + (process.exitcode or 0)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a worker's own processes: PYTHONSAFEPATH")
@pytest.mark.parametrize("forked", [False, True])
def test_workers_and_their_processes_find_the_installed_modules(
    hostile: Path, forked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PRELOADED", "os")
    with crew(forked=True) if forked else nullcontext():
        assert launch(hostile, work=looks_for_modules) == 0
    assert not list(hostile.glob("*.ran"))


@pytest.mark.slow
def test_a_sweep_and_a_training_run_beside_files_named_like_modules(hostile: Path) -> None:
    assert main(["-m", *RUN, "seed=0,1", "sweep_dir=sweep"]) == 0
    assert len(list(hostile.glob("sweep/*/videos/*.mp4"))) == 2
    training = ["experiment=train_tiny_anchor", *SMALL, *TRAINING]
    assert main(["train", *training, "run_dir=training"]) == 0
    assert not list(hostile.glob("*.ran"))
