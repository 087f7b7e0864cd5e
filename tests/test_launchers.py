"""Jobs of a sweep beside each other, on a cluster, and chosen by Optuna."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small import BACKBONE, small_config, write_backbone
from test_sweep import fakes, plain_jobs

from pixelwizard import worker
from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.cli.sweeps import sweeping
from pixelwizard.cli.sweeps.launchers import CLUSTERS, launcher_of, on_node, submit
from pixelwizard.cli.sweeps.ledger import SweepJob, in_turn, run_sweep
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.parallel import mesh_of
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.sweep import LauncherSettings, Search, Span, SweeperSettings
from pixelwizard.config.targets import Target

pytest.importorskip("submitit")
pytest.importorskip("optuna")
QUICK = ["resolution.frames=5", "resolution.width=128", "resolution.height=64", "metrics=none"]
QUICK += ["anchor.steps=2"]
QUICK += ["tracker=none"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def test_launcher_and_sweeper_compose_and_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.gpus_per_node=2",
    ]
    words += ["hydra.launcher.account=us", "seed=0,1"]
    jobs = compose("generate", words, sweep=True)
    expected = LauncherSettings("submitit_slurm", partition="gpu", gpus_per_node=2, account="us")
    assert jobs[0].launcher == expected
    (study,) = compose(
        "generate",
        [
            *("hydra/sweeper=optuna", "schedule.steps=range(2,6)", "seed=3"),
            *("schedule.shift=tag(log,interval(1.0,9.0))", "schedule.solver=euler,unipc"),
        ],
        sweep=True,
    )
    assert study.search is not None and study.config.seed == 3
    assert study.search.space == {
        "schedule.steps": Span(2, 5, True),
        "schedule.shift": Span(1.0, 9.0, False, log=True),
        "schedule.solver": ("euler", "unipc"),
    }
    for wrong, sentence in (
        ("hydra/launcher=submitit_slrum", "did you mean submitit_slurm?"),
        ("hydra.launcher.njobs=2", "did you mean hydra.launcher.n_jobs?"),
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0 runs nothing"),
        ("hydra.launcher.timeout_min=9", "=9 is for hydra/launcher=submitit_slurm or"),
    ):
        assert main(["-m", "seed=0,1", "hydra/launcher=joblib", wrong]) == 2
        assert sentence in capsys.readouterr().err


def test_jobs_run_side_by_side(backbone: BackboneSettings, tmp_path: Path) -> None:
    config = small_config(backbone, tmp_path, prompt=["a red circle"])
    jobs = {
        name: SweepJob("generate", replace(config, run_dir=str(tmp_path / name)), (name,), ("x",))
        for name in ("good", "bad")
    }
    (tmp_path / "bad").write_text("no folder")
    launch = launcher_of(LauncherSettings("joblib", n_jobs=2), tmp_path)
    assert run_sweep(tmp_path, jobs, launch) == 3
    states = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert {name: state["status"] for name, state in states.items()} == {
        "good": "done",
        "bad": "failed",
    }
    assert "bad is a file; choose another folder" in states["bad"]["reason"]
    assert list((tmp_path / "good/videos").glob("*.mp4"))


def test_a_cluster_that_is_this_process_runs_the_sweep(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = fakes(tmp_path, monkeypatch, {"seed=1": 3})
    monkeypatch.setitem(CLUSTERS, "submitit_local", "debug")
    launch = launcher_of(LauncherSettings("submitit_local"), tmp_path)
    assert run_sweep(tmp_path, plain_jobs(backbone, tmp_path), launch) == 3
    states = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert [states[name]["status"] for name in ran] == ["done", "failed", "done"]


def test_slurm_without_its_tools_is_one_sentence(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="submitit_slurm needs SLURM's srun on PATH"):
        submit(plain_jobs(backbone, tmp_path), LauncherSettings("submitit_slurm"), tmp_path)


def test_a_search_with_nothing_to_search_is_refused() -> None:
    words = ["hydra/sweeper=optuna", "seed=3"]
    with pytest.raises(ConfigError, match="has nothing to search; give ranges"):
        compose("generate", words, sweep=True)
    assert compose("generate", words)[0].search is None  # one of its trials


def test_slurm_is_asked_for_what_the_settings_say(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("srun", "sbatch"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script\necho Submitted batch job 17\n')
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    settings = LauncherSettings(
        "submitit_slurm",
        partition="gpu",
        timeout_min=90,
        gpus_per_node=2,
        account="us",
        setup=["module load ffmpeg"],
        additional_parameters={"reservation": "ours"},
    )
    jobs = submit(plain_jobs(backbone, tmp_path), settings, tmp_path)
    assert [job.job_id for job in jobs.values()] == ["17_0", "17_1", "17_2"]
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", (tmp_path / "script").read_text(), re.M))
    expected = {"partition": "gpu", "time": "90", "gpus-per-node": "2", "account": "us"}
    expected |= {"cpus-per-task": "8", "mem": "64GB", "job-name": "pixelwizard"}
    expected |= {"reservation": "ours"}
    assert expected.items() <= asked.items() and asked["array"].startswith("0-2%")


def trials(said: str) -> list[list[str]]:
    """The lines of the table: number, quality, cost, mark of the front, overrides."""
    lines = [line for line in said.splitlines() if re.match(r" *\d+ +[\d.]+", line)]
    return [re.split(r"  +", line.strip(), maxsplit=4) for line in lines]


def test_the_ranks_of_a_job_fit_the_gpus_that_slurm_gives_it() -> None:
    def job(*words: str) -> GenerateConfig:
        (made,) = compose(
            "generate", ["hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=4", *words]
        )
        config = on_node(made.config, made.launcher)
        assert isinstance(config, GenerateConfig)
        return config

    assert mesh_of(job("parallel=prompts")).world == 4  # whatever this machine has
    assert mesh_of(job("parallel=hybrid", "parallel.guidance=2")).world == 4
    assert job("seed=1").parallel == GenerateConfig("none").parallel
    for words in (["parallel.sequence=3", "parallel.guidance=2"], ["parallel.prompts=6"]):
        with pytest.raises(ConfigError, match="gpus_per_node=4 is too few for the 6 ranks"):
            job("parallel=hybrid", *words)
    with pytest.raises(ConfigError, match="launch=false is for one run"):
        job("parallel.launch=false")
    with pytest.raises(ConfigError, match="nodes=2 is not possible"):
        LauncherSettings("submitit_slurm", nodes=2).check("hydra.launcher")


def test_optuna_weighs_quality_against_passes_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran: list[str] = []

    def launch(folder: Path, ranks: int = 1) -> int:
        ran.append(folder.name)
        return worker.run(folder)

    monkeypatch.setattr("pixelwizard.launch.launch.launch", launch)
    words = [*QUICK, "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "sweep_dir=found"]
    words += ["schedule.steps=range(2,5)", "schedule.shift=interval(2.0,8.0)"]
    words += ["hydra.sweeper.target=schedule=unipc50", "--prompt", "a red circle grows"]
    assert main(words) == 0
    table = trials(capsys.readouterr().out)
    assert ran[0] == "schedule=unipc50" and len(table) == 3
    best = [float(row[1]) for row in table if row[3] == "*"]
    assert best and min(best) == min(float(row[1]) for row in table)
    assert {row[2] for row in table} <= {"2", "3", "4"}
    before = len(ran)
    assert main([word.replace("trials=3", "trials=4") for word in words]) == 0
    again = trials(capsys.readouterr().out)
    assert len(again) == 4 and [row[1:3] for row in again[:3]] == [row[1:3] for row in table]
    assert len(ran) == before + 1  # the finished trials were found, not made again


def test_several_trials_are_chosen_before_the_first_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(BACKBONE, tmp_path)
    asked: list[list[str]] = []

    def make_job(overrides: Sequence[str]) -> SweepJob:
        folder = tmp_path / overrides[0]
        return SweepJob("generate", replace(config, run_dir=str(folder)), tuple(overrides), ())

    def run(folder: Path, jobs: dict[str, SweepJob], launch: object) -> int:
        asked.append(list(jobs))
        return 0

    monkeypatch.setattr(sweeping, "run_sweep", run)
    monkeypatch.setattr(SweepJob, "finished", lambda job: True)
    monkeypatch.setattr(sweeping, "_measured", lambda *_: sweeping._Value(1.0, 4.0, False))
    sampler = Target("optuna.samplers.RandomSampler", {"seed": 3})
    settings = SweeperSettings("optuna", n_trials=5, n_jobs=2, sampler=sampler, quality="clip")
    space = Search(settings, {"seed": Span(0, 10**6, True)}, ())
    assert sweeping.run_search(tmp_path, space, in_turn, make_job) == 0
    assert asked[0] == ["schedule=unipc50"]
    assert [len(names) for names in asked[1:]] == [2, 2, 1]
