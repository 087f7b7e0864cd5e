"""Trackers: what they record stays in the run folder, and they never cost a video."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import BACKBONE, small_config

from pixelwizard.contact_sheet import write_contact_sheet
from pixelwizard.settings import Config, TrackerSettings, VideoSettings
from pixelwizard.tracking import track
from pixelwizard.video import VideoWriter

COSTS = {"detail": {"seconds": 1.5, "peak_gb": 0.5}, "decode": {"seconds": 2.0, "peak_gb": 0.25}}
ROWS = ("a red circle", "a blue square")


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Config, list[tuple[str, Path]], Path]:
    """A run folder with two finished videos and a contact sheet."""
    config = small_config(BACKBONE, tmp_path)
    videos = Path(config.run_dir) / "videos"
    videos.mkdir(parents=True)
    rows = []
    for number, prompt in enumerate(ROWS):
        path = videos / f"{number}.mp4"
        with VideoWriter(path, 64, 32, VideoSettings()) as writer:
            writer.write(np.full((5, 32, 64, 3), 100 * number, np.uint8))
        path.with_suffix(".json").write_text(json.dumps({"stages": COSTS}))
        rows.append((prompt, path))
    sheet = Path(config.run_dir) / "contact_sheet.png"
    write_contact_sheet(sheet, rows)
    return config, rows, sheet


def tracked(config: Config, kind: str) -> Config:
    return Config(**{**vars(config), "tracker": TrackerSettings(kind=kind)})


def test_the_contact_sheet_has_a_row_per_video(
    finished: tuple[Config, list[tuple[str, Path]], Path],
) -> None:
    _, rows, sheet = finished
    one = sheet.with_name("one.png")
    write_contact_sheet(one, rows[:1])
    image = Image.open(sheet).convert("RGB")
    assert image.width == 5 * 256 + 6 * 8 and image.height == 2 * Image.open(one).height
    middle = image.height // 4 + 14
    assert max(image.getpixel((image.width // 2, middle))) < 10
    assert min(image.getpixel((image.width // 2, middle + image.height // 2))) > 90


def test_wandb_offline_keeps_everything_in_the_run_folder(
    finished: tuple[Config, list[tuple[str, Path]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, rows, sheet = finished
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    track(tracked(config, "wandb"), rows, sheet)
    (folder,) = Path(config.run_dir).glob("wandb/offline-run-*")
    media = {path.suffix for path in folder.glob("files/media/**/*") if path.is_file()}
    assert media == {".mp4", ".png"}
    assert len(list(folder.glob("files/media/videos/**/*.mp4"))) == 2
    assert b"a blue square" in next(folder.glob("run-*.wandb")).read_bytes()
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_csv_has_a_line_of_costs_per_video(
    finished: tuple[Config, list[tuple[str, Path]], Path],
) -> None:
    config, rows, sheet = finished
    track(tracked(config, "csv"), rows, sheet)
    with open(Path(config.run_dir) / "csv" / "metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["0", "1"]
    assert lines[1]["detail/seconds"] == "1.5" and lines[1]["decode/peak_gb"] == "0.25"


def test_a_failing_tracker_is_noted_and_goes_on(
    finished: tuple[Config, list[tuple[str, Path]], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, rows, sheet = finished
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    track(tracked(config, "wandb"), rows, sheet)
    assert "the tracker wandb failed" in caplog.text
