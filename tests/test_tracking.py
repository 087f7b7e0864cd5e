"""Trackers: what they record stays in the run folder, and they never cost a video."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from small import BACKBONE, small_config
from wandb_files import Server, history, records, settings_of

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import TrackerSettings, VideoSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.targets import Target, check_doors
from pixelwizard.generation.contact_sheet import write_contact_sheets
from pixelwizard.io.reading import probe
from pixelwizard.io.video import VideoWriter
from pixelwizard.tracking import Tracker, figures, wandb_run
from pixelwizard.tracking.fallback import FallbackTracker
from pixelwizard.tracking.loggers import CSVRows
from pixelwizard.tracking.wandb_run import WandbRun, wanted_mode

COSTS = {"detail": {"seconds": 1.5, "peak_gb": 0.5}, "decode": {"seconds": 2.0, "peak_gb": 0.25}}
SCORE = {
    **{"name": "clip", "value": 30.0, "low": 20.0, "high": 50.0, "recipe": "clip/x/n=2"},
    **{"videos": 2, "higher_is_better": True, "warnings": []},
}
PROMPTS = ("a red circle", "a blue square")


def record(number: int) -> dict[str, Any]:
    """What is written beside a video, as far as trackers look at it."""
    return {
        "id": str(number),
        "prompt": PROMPTS[number],
        "negative_prompt": "",
        "seed": number,
        "anchor": {"nfe": 40},
        "detail": {"nfe": 4},
        "weights": {"vae": "0a1b"},
        "versions": {"torch": "2"},
        "stages": COSTS,
    }


@pytest.fixture
def made(tmp_path: Path) -> tuple[GenerateConfig, list[Path]]:
    """A run folder with two finished videos."""
    config = small_config(BACKBONE, tmp_path)
    videos = Path(config.run_dir) / "videos"
    videos.mkdir(parents=True)
    paths = []
    for number in range(len(PROMPTS)):
        paths.append(videos / f"{number}.mp4")
        with VideoWriter(paths[-1], 64, 32, VideoSettings()) as writer:
            writer.write(np.full((5, 32, 64, 3), 100 * number, np.uint8))
    return config, paths


def tracked(config: GenerateConfig, **settings: Any) -> GenerateConfig:
    return replace(config, tracker=TrackerSettings(**settings))


def play(tracker: Tracker, config: GenerateConfig, paths: list[Path]) -> None:
    """Tell a tracker of a run as the predict loops do."""
    for number, path in enumerate(paths):
        tracker.stage(path.stem, "detail", COSTS["detail"])
        tracker.video(path, record(number))
    rows = [(path.stem, path, None) for path in paths]
    sheet = write_contact_sheets(Path(config.run_dir), rows)
    tracker.finish(sheet)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a key for W&B."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_the_contact_sheet_has_a_row_per_video(made: tuple[GenerateConfig, list[Path]]) -> None:
    config, paths = made
    folder = Path(config.run_dir)
    sheet = write_contact_sheets(folder, [(*row, None) for row in zip(PROMPTS, paths, strict=True)])
    assert sheet == folder / "contact_sheet.png"
    image = Image.open(sheet).convert("RGB")
    write_contact_sheets(folder, [(PROMPTS[0], paths[0], None)])
    assert image.width == 5 * 256 + 6 * 8 and image.height == 2 * Image.open(sheet).height
    middle = image.height // 4 + 14
    assert max(image.getpixel((image.width // 2, middle))) < 10
    assert min(image.getpixel((image.width // 2, middle + image.height // 2))) > 90


def test_wandb_offline_keeps_everything_in_the_run_folder(
    made: tuple[GenerateConfig, list[Path]], home: Path
) -> None:
    config, paths = made
    config = tracked(config, artifact=True)
    (Path(config.run_dir).parent / "sweep.json").write_text("{}")
    play(FallbackTracker(config), config, paths)
    (folder,) = Path(config.run_dir).glob("wandb/offline-run-*")
    assert len(list(folder.glob("files/media/videos/**/*.mp4"))) == 2
    assert len(list(folder.glob("files/media/images/**/*.png"))) == 1
    found = history(folder)
    assert found["detail/seconds"] == 1.5 and found["detail/nfe"] == 4
    assert found["progress/detail/peak_gb"] == 0.5
    assert found["videos/1.caption"] == "a blue square"
    assert found["table.nrows"] == 2
    logged = settings_of(folder)
    assert logged["seed"] == 0 and logged["weights"] == {"vae": "0a1b"}
    assert logged["schedule"]["steps"] == 2
    runs = [r.run for r in records(next(folder.glob("run-*.wandb"))) if r.run.run_id]
    assert runs[0].run_group == Path(config.run_dir).parent.name
    assert runs[0].job_type == "generate"
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_continued_run_is_the_same_wandb_run(
    made: tuple[GenerateConfig, list[Path]], home: Path
) -> None:
    config, paths = made
    for path in paths:
        play(FallbackTracker(tracked(config)), config, [path])
    folders = sorted(Path(config.run_dir).glob("wandb/offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.split("-")[3] for folder in folders}) == 1


def test_a_server_that_does_not_answer_leaves_the_run_offline(
    made: tuple[GenerateConfig, list[Path]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_run, "START_SECONDS", 1.0)
    config, paths = made
    said: list[str] = []
    play(FallbackTracker(tracked(config), said.append), config, paths)
    assert len(said) == 1 and "recorded offline" in said[0]
    (folder,) = Path(config.run_dir).glob("wandb/offline-run-*")
    assert history(folder)["videos/0.caption"] == "a red circle"


def test_a_server_that_goes_away_costs_nothing_but_a_warning(
    made: tuple[GenerateConfig, list[Path]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    config, paths = made
    monkeypatch.setattr("wandb.apis.public.api.Api._HTTP_TIMEOUT", 1)  # asked for a table
    said: list[str] = []
    server = Server()
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    tracker = FallbackTracker(tracked(config), said.append)
    tracker.video(paths[0], record(0))
    server.close()
    tracker.video(paths[1], record(1))
    tracker.scores({"set": [SCORE], "per_video": {"1": {"clip": 40.0}}, "recipes": {"clip": "c"}})
    tracker.finish(None)
    folders = [next(Path(config.run_dir).glob(f"wandb/{kind}run-*")) for kind in ("", "offline-")]
    assert len(said) == 1 and "recorded offline from here on" in said[0]
    found = history(folders[0]) | history(folders[1])
    assert [found[f"videos/{number}.caption"] for number in range(2)] == [*PROMPTS]
    assert found[f"metrics/{SCORE['recipe']}"] == 30
    assert found[f"metrics/{SCORE['recipe']}/high"] == 50
    assert found["table.nrows"] == 2 and found["metrics.nrows"] == 1
    shown = [path for folder in folders for path in folder.glob("files/media/videos/**/*.mp4")]
    assert len(shown) == 2
    id = Path(config.run_dir, "wandb", "id").read_text()
    assert server.runs == [(id, "generate")] and folders[1].name.endswith(id)


def test_a_continued_run_is_the_same_on_the_server(
    made: tuple[GenerateConfig, list[Path]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 1.0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    config, _ = made
    said: list[str] = []
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        for _ in range(2):
            tracker = FallbackTracker(tracked(config), said.append)
            tracker.stage("0", "detail", COSTS["detail"])
            tracker.finish(None)
    assert len(list(Path(config.run_dir).glob("wandb/run-*"))) == 2
    assert server.runs == [(Path(config.run_dir, "wandb", "id").read_text(), "generate")] * 2
    assert said == []


def test_wandb_is_online_only_with_a_key(home: Path) -> None:
    assert wanted_mode("auto", {}) == "offline"
    assert wanted_mode("auto", {"WANDB_API_KEY": "k"}) == "online"
    assert wanted_mode("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}) == "offline"
    assert wanted_mode("offline", {"WANDB_API_KEY": "k"}) == "offline"
    (home / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    (home / ".netrc").chmod(0o600)
    assert wanted_mode("auto", {}) == "online"
    assert wanted_mode("auto", {"WANDB_BASE_URL": "https://other.example"}) == "offline"


def test_a_large_video_is_shown_small(
    made: tuple[GenerateConfig, list[Path]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_run, "PREVIEW_HEIGHT", 16)
    config, paths = made
    tracker = WandbRun(tracked(config), print)
    play(tracker, config, paths[:1])
    (shown,) = Path(config.run_dir).glob("wandb/offline-run-*/files/media/videos/**/*.mp4")
    assert (probe(shown).width, probe(shown).height) == (32, 16)


def test_csv_has_a_line_of_costs_per_video_also_when_continued(
    made: tuple[GenerateConfig, list[Path]],
) -> None:
    config, paths = made
    config = tracked(config, kind="csv")
    play(FallbackTracker(config), config, paths[:1])
    tracker = FallbackTracker(config)
    tracker.earlier(paths[0], record(0))
    tracker.video(paths[1], record(1))
    tracker.finish(None)
    with open(Path(config.run_dir) / "csv" / "metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["0", "1"]
    assert lines[1]["detail/seconds"] == "1.5" and lines[1]["decode/peak_gb"] == "0.25"


def test_a_logger_of_lightning_can_be_named_and_nothing_else(
    made: tuple[GenerateConfig, list[Path]],
) -> None:
    config, paths = made
    named = Target("lightning.pytorch.loggers.CSVLogger", {"name": "mine"})
    tracker = FallbackTracker(tracked(config, kind="csv", logger=named))
    play(tracker, config, paths)
    run = Path(config.run_dir)
    (own,) = run.glob("mine/*/metrics.csv")  # save_dir is the run folder
    assert len(own.read_text().splitlines()) == 3 and (run / "csv" / "metrics.csv").is_file()
    for wrong, sentence in (
        (Target("os.path.join"), "must be a subclass of lightning.pytorch.loggers"),
        (Target("no.such.Logger"), "there is no module no.such"),
        (Target("lightning.pytorch.loggers.CSVLogger", {"nmae": "x"}), "'tracker.logger.nmae'"),
        ("Logger", "nearest: tracker.logger._target_=module.Name"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check_doors(tracked(config, logger=wrong))


def log_steps(folder: Path, steps: range) -> None:
    logger = CSVRows(folder)
    for step in steps:
        logger.log_metrics({"loss": 1 / step}, step)
        if step == 5:
            logger.log_metrics({"held_out": 0.5}, float(step))


def test_an_interrupted_training_leaves_the_csv_of_one_that_was_not(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    log_steps(calm, range(1, 7))
    log_steps(killed, range(1, 5))
    with open(killed / "metrics.csv", "a") as file:
        file.write("0.1,1")  # half a row
    log_steps(killed, range(3, 7))  # goes on from the state of step 2
    assert (killed / "metrics.csv").read_bytes() == (calm / "metrics.csv").read_bytes()


def test_the_loggers_of_a_tracker_are_attached_to_a_trainer(
    made: tuple[GenerateConfig, list[Path]], home: Path
) -> None:
    config, _ = made
    tracker = FallbackTracker(tracked(config, name="mine", tags=["a"], notes="why", group="we"))
    (logger,) = L.Trainer(logger=list(tracker.loggers), accelerator="cpu").loggers
    assert isinstance(logger, WandbLogger)
    logger.log_metrics({"loss": 0.25}, step=7)
    tracker.finish(None, done=True)
    (folder,) = Path(config.run_dir).glob("wandb/offline-run-*")
    assert history(folder)["loss"] == 0.25 and history(folder)["trainer/global_step"] == 7
    (run,) = [r.run for r in records(next(folder.glob("run-*.wandb"))) if r.run.run_id]
    assert (run.display_name, run.notes, run.run_group) == ("mine", "why", "we")
    assert list(run.tags) == ["a"] and run.project == "pixelwizard"


def test_the_variables_of_wandb_hold_where_nothing_is_set(
    made: tuple[GenerateConfig, list[Path]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = made
    for name in ("NAME", "NOTES", "RUN_GROUP", "TAGS", "PROJECT", "RUN_ID"):
        monkeypatch.setenv(f"WANDB_{name}", name.lower())
    tracker = FallbackTracker(tracked(config, notes="mine"))
    assert len(tracker.loggers) == 1
    tracker.finish(None, done=True)
    (folder,) = Path(config.run_dir).glob("wandb/offline-run-*-run_id")
    (run,) = [r.run for r in records(next(folder.glob("run-*.wandb"))) if r.run.run_id]
    assert (run.display_name, run.notes, run.run_group) == ("name", "mine", "run_group")
    assert list(run.tags) == ["tags"] and run.project == "project"


def test_settings_of_another_tracker_are_refused() -> None:
    with pytest.raises(ConfigError, match="tracker.mode=online is for tracker=wandb"):
        check(TrackerSettings(kind="csv", mode="online"), "tracker")


def test_an_error_of_an_attached_logger_ends_only_its_record(
    made: tuple[GenerateConfig, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = made
    said: list[str] = []
    monkeypatch.setattr(CSVRows, "log_metrics", lambda *_, **__: 1 / 0)
    tracker = FallbackTracker(tracked(config, kind="csv"), said.append)
    (logger,) = tracker.loggers
    for step in range(2):
        logger.log_metrics({"loss": 1.0}, step=step)
    assert said == ["tracker=csv failed (division by zero); the run continues without it"]
    assert list(tracker.loggers) == []


def test_a_failing_tracker_is_said_once_and_the_run_goes_on(
    made: tuple[GenerateConfig, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, paths = made
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    said: list[str] = []
    play(FallbackTracker(tracked(config), said.append), config, paths)
    assert "tracker=wandb is given up" in caplog.text
    assert said == ["tracker=wandb failed (division by zero); the run continues without it"]


KILLED = """
import os, signal, sys
from pathlib import Path
from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.output import TrackerSettings
from pixelwizard.tracking import wandb_run

def lost(*_):
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    for child in task.read_text().split():
        os.kill(int(child), signal.SIGKILL)
        os.waitpid(int(child), 0)
    raise ConnectionResetError("Connection lost")

folder = Path(sys.argv[1])
tracker = TrackerSettings(mode="offline")
config = EvaluateConfig(videos=str(folder), run_dir=str(folder), tracker=tracker)
wandb_run.Session.log_scores = lost
wandb_run.log_scores(config, {})
"""


def test_a_killed_service_of_wandb_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "atexit" not in done.stderr
    assert "tracker=wandb failed (Connection lost)" in done.stderr


def test_the_figures_of_a_video_are_flat() -> None:
    found = figures(record(0))
    assert found["detail/seconds"] == 1.5 and found["anchor/nfe"] == 40
