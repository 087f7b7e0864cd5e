"""With the defaults, scores and W&B included, several ranks leave the folder that one leaves."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ranks import free_port, runs, scoring, start
from small import small_config, write_backbone, write_config
from torch import Tensor
from wandb_files import history

from pixelwizard import worker
from pixelwizard.cli.compose import compose
from pixelwizard.cli.sweeps.ledger import SweepJob, run_sweep
from pixelwizard.config.output import VideoSettings
from pixelwizard.config.parallel import MODES, ParallelSettings
from pixelwizard.generation import predict
from pixelwizard.io.reading import read_frames
from pixelwizard.io.video import VideoWriter
from pixelwizard.launch.launch import launch
from pixelwizard.records.run_folder import Failure

PROMPTS = ("a red circle moves left", "a blue square moves right over a white background")
IDS = ("001-a-red-circle-moves-left", "002-a-blue-square-moves-right-over-a-white-backgroun")
FEW = ("anchor.steps=4", "schedule.steps=2", "resolution.width=192", "resolution.height=64")
FEW += ("video.crf=0",)
"""Less to compute, frames without loss: h264 makes much of a rounding. The rest is the default."""
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "single": (1, ()),
    "prompts": (2, ("parallel.prompts=2",)),
    "fsdp": (2, ("parallel.prompts=2",)),
    "ulysses": (3, ("parallel.sequence=3",)),
    "guidance": (2, ()),
    "auto": (2, ("parallel.devices=2",)),
    "hybrid": (4, ("parallel.prompts=2", "parallel.guidance=2")),
}
"""Mode -> ranks and sizes; tiny has three heads."""
KEPT = ("save_anchor=true", "video.png=true", "decode.mode=tiled", "decode.tiles=[1,2]")
"""What else a run may leave; with real videos to compare with."""
TELLING = {"single, all": "single", "hybrid": "single, all"} | {
    mode: "single" for mode in LAYOUTS if mode not in ("single", "hybrid")
}
"""A run -> the run of one rank that has the same results."""


def write_run(folder: Path, name: str) -> str:
    """The run folder of a layout as the command composes it."""
    mode, more = name.split(",")[0], []
    if name in ("hybrid", "single, all"):
        more = [*KEPT, f"reference={folder / 'reference'}"]
    store = "single" if mode == "single" else name
    words = [f"parallel={mode}", *LAYOUTS[mode][1], *FEW, *more]
    words += [f"run_dir='{folder / name}'", f"store.dir={folder}/store-{store}"]
    (job,) = compose("generate", words, PROMPTS)
    assert job.config.resolution.frames == 17 and job.config.metrics.video == "auto"
    return str(write_config(job.config))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every mode, run by the same four processes."""
    folder = tmp_path_factory.mktemp("defaults")
    (folder / "reference").mkdir()
    draw = np.random.default_rng(0)
    for name in "abc":
        with VideoWriter(folder / "reference" / f"{name}.mp4", 192, 64, VideoSettings()) as file:
            file.write(draw.integers(0, 255, (17, 64, 192, 3), np.uint8))
    names = ["single", "single, all", *(mode for mode in LAYOUTS if mode != "single")]
    jobs = [(write_run(folder, n), LAYOUTS[n.split(",")[0]][0], free_port()) for n in names]
    assert start(4, runs, jobs, folder) == [0] * 4
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_mode_is_tried() -> None:
    assert LAYOUTS.keys() == MODES.keys()


@pytest.mark.parametrize("name", ["single", *TELLING])
def test_every_mode_ends_well_with_sheet_scores_and_tracker(made: Path, name: str) -> None:
    run, ranks = made / name, LAYOUTS[name.split(",")[0]][0]
    codes = [read(made / f"made.{rank}")[0][str(run)] for rank in range(ranks)]
    assert codes == [0] * ranks and Failure.left_in(run) is None
    assert [state["state"] for state in read(run / "status.json").values()] == ["done"] * 2
    with Image.open(run / "contact_sheet.png") as sheet:
        assert sheet.height > 2 * 64
    scores = read(run / "metrics.json")
    for id in IDS:
        assert len(list(read_frames(run / "videos" / f"{id}.mp4"))) == 17
        beside = read(run / "videos" / f"{id}.json")["metrics"]
        assert {name: score["value"] for name, score in beside.items()} == scores["per_video"][id]
    (tracked,) = (run / "wandb").glob("offline-run-*")  # one rank speaks for all
    told = history(tracked)
    assert all(told[f"metrics/{s['recipe']}"] == s["value"] for s in scores["set"])


CLOSE = {"rel": 5e-3, "abs": (1 / 255) ** 2}
"""Sums in another order change single pixels by a level; the optical flow shows it most.

The warping error of these clips, 4e-4, differs by less than the square of a level.
"""


@pytest.mark.parametrize(("name", "alone"), list(TELLING.items())[1:])
def test_the_scores_are_those_of_one_rank(made: Path, name: str, alone: str) -> None:
    found, expected = read(made / name / "metrics.json"), read(made / alone / "metrics.json")
    assert [(s["name"], s["recipe"], s["videos"]) for s in found["set"]] == [
        (s["name"], s["recipe"], s["videos"]) for s in expected["set"]
    ]
    for one, other in zip(found["set"], expected["set"], strict=True):
        assert one["value"] == pytest.approx(other["value"], **CLOSE), one["name"]
    assert found["per_video"].keys() == expected["per_video"].keys() == set(IDS)
    for id in IDS:
        assert found["per_video"][id] == pytest.approx(expected["per_video"][id], **CLOSE)


def test_anchors_pictures_and_tiles_of_ranks_are_those_of_one(made: Path) -> None:
    one, other = made / "single, all", made / "hybrid"
    kept = [sorted(p.relative_to(f) for p in (f / "videos").rglob("*")) for f in (one, other)]
    assert kept[0] == kept[1] and sum(path.suffix == ".png" for path in kept[0]) >= 2 * 17
    for id in IDS:
        assert read(other / "videos" / f"{id}.json")["stages"]["decode"]["tiles"] == [1, 2]
        videos = [list(read_frames(f / "videos" / f"{id}.anchor.mp4")) for f in (one, other)]
        assert len(videos[0]) == len(videos[1]) == 17
        assert np.abs(np.stack(videos[0]).astype(float) - np.stack(videos[1])).mean() < 0.5
    assert {"fvd", "hd-fvd"} <= {score["name"] for score in read(other / "metrics.json")["set"]}


def test_a_training_scores_its_samples_on_one_rank_of_a_live_group(made: Path) -> None:
    folder = made / "training"
    folder.mkdir()
    (job,) = compose("train", [f"run_dir={folder}", f"data.dir={folder}/data"])
    videos = sorted((made / "single" / "videos").glob("*.mp4"))
    assert start(2, scoring, job.config, videos, free_port()) == [0, 0]
    with open(folder / "samples.csv", newline="") as file:
        rows = {row["score"]: float(row["value"]) for row in csv.DictReader(file)}
    scores = {s["name"]: s["value"] for s in read(made / "single" / "metrics.json")["set"]}
    assert rows.keys() == scores.keys()
    assert rows["flicker"] == pytest.approx(scores["flicker"], rel=1e-5)


def second_rank_fails(folder: Path) -> int:
    """The worker of a rank; the second cannot go on, or ends without a word."""

    def failed(self: predict.DetailLoop, *_: object) -> Tensor:
        if folder.name == "seed=0":
            raise RuntimeError("numbers ran out")
        os._exit(0)  # not as one that failed

    if os.environ["RANK"] == "1":
        predict.DetailLoop.noise = failed  # type: ignore[method-assign]
    return worker.run(folder)


def test_the_ledger_of_a_sweep_over_ranks_has_the_sentences_of_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = partial(launch, work=second_rank_fails)
    monkeypatch.setattr("pixelwizard.launch.launch.launch", failing)
    config = small_config(
        write_backbone(tmp_path / "weights"), tmp_path,
        parallel=ParallelSettings("guidance"), prompt=["a circle"],
    )  # fmt: skip
    sentences = {
        "seed=0": "prompt 001-a-circle failed: detail: numbers ran out",
        "seed=1": "another rank of this job is gone",
    }
    jobs = {}
    for name in sentences:
        own = replace(config, run_dir=str(tmp_path / "sweep" / name), seed=int(name[-1]))
        jobs[name] = SweepJob("generate", own, (name,), ("pixelwizard", "-m"))
    assert run_sweep(tmp_path / "sweep", jobs) == 3
    states = read(tmp_path / "sweep" / "sweep.json")["jobs"]
    assert {name: state["reason"] for name, state in states.items()} == sentences
    assert {(state["status"], state["exit_code"]) for state in states.values()} == {("failed", 3)}
    said = capfd.readouterr().err.splitlines()
    assert said[-2:] == [f"  {name}: failed: {reason}" for name, reason in sentences.items()]
