"""The metrics of ``generate``: scored as evaluate scores, written beside the videos and tracked."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import SIZE, small_config, write_backbone, write_config
from wandb_files import history, settings_of

from pixelwizard import worker
from pixelwizard.cli.main import main
from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import MetricsSettings, TrackerSettings, VideoSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.evaluation import names
from pixelwizard.evaluation.evaluate import evaluate
from pixelwizard.generation import predict, scoring
from pixelwizard.generation.run import check
from pixelwizard.io.video import VideoWriter
from pixelwizard.records.run_folder import claim

IDS = ("001-a-red-circle", "002-a-blue-square-moves-left")
TINY = MetricsSettings(video="tiny-video", clip="tiny-clip")
OF_A_VIDEO = {"clip", "frame-consistency", "hd-mse", "hd-mse-noise", "high-frequency", "flicker"}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def rerun(config: GenerateConfig) -> int:
    """The same command again, as far as its worker."""
    return worker.run(claim(config, ["pixelwizard"]))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of the size and length of the videos; the first has the name of one of them."""
    folder = tmp_path_factory.mktemp("reference")
    draw = np.random.default_rng(0)
    for name in (IDS[0], "b", "c"):
        with VideoWriter(folder / f"{name}.mp4", SIZE.width, SIZE.height, VideoSettings()) as file:
            file.write(draw.integers(0, 255, (17, SIZE.height, SIZE.width, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> GenerateConfig:
    """A run of two videos, finished: scored, with a reference, and tracked by W&B."""
    backbone = write_backbone(tmp_path_factory.mktemp("weights"))
    config = small_config(
        backbone,
        tmp_path_factory.mktemp("scored"),
        resolution=replace(SIZE, frames=17),
        metrics=TINY,
        reference=str(reference),
        tracker=TrackerSettings(mode="offline"),
    )
    assert worker.run(write_config(config)) == 0
    return config


def videos(config: GenerateConfig) -> dict[str, tuple[int, int]]:
    """What tells whether a video was written again."""
    paths = sorted(Path(config.run_dir).glob("videos/*.mp4"))
    return {path.stem: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_a_run_writes_the_scores_that_evaluate_computes(
    config: GenerateConfig, tmp_path: Path
) -> None:
    parts = {name: getattr(config, name) for name in ("reference", "metrics")}
    evaluate(EvaluateConfig(str(tmp_path), videos=config.run_dir, **parts))
    found, same = read(Path(config.run_dir) / "metrics.json"), read(tmp_path / "metrics.json")
    assert {score["name"] for score in found["set"]} >= OF_A_VIDEO | {"fvd", "hd-fvd", "psnr"}
    assert found.pop("of") and same.pop("of")
    assert found == same


def test_every_video_has_its_scores_beside_it(config: GenerateConfig) -> None:
    found = read(Path(config.run_dir) / "metrics.json")
    for id in IDS:
        beside = read(Path(config.run_dir) / "videos" / f"{id}.json")["metrics"]
        assert {name: score["value"] for name, score in beside.items()} == found["per_video"][id]
        assert OF_A_VIDEO <= beside.keys() and ("psnr" in beside) == (id == IDS[0])
        assert beside["flicker"]["recipe"] == "flicker/mae255/all/n=1"


def test_wandb_has_every_score_with_recipe_and_interval(config: GenerateConfig) -> None:
    (folder,) = Path(config.run_dir).glob("wandb/offline-run-*")
    found, logged = read(Path(config.run_dir) / "metrics.json"), history(folder)
    recipes = settings_of(folder)["recipes"]
    (table,) = folder.glob("files/media/table/metrics*.json")
    rows = {row[0]: row for row in read(table)["data"]}
    for score in found["set"]:
        name = score["name"]
        bounds = [logged[f"metrics/{score['recipe']}{end}"] for end in ("", "/low", "/high")]
        assert bounds == [score["value"], score["low"], score["high"]]
        assert recipes[f"set/{name}"] == score["recipe"] and rows[name][4] == score["recipe"]
    (table,) = folder.glob("files/media/table/table*.json")
    of_videos = read(table)
    column = of_videos["columns"].index("metrics/clip")
    values = {row[0]: row[column] for row in of_videos["data"]}
    assert values == {id: found["per_video"][id]["clip"] for id in IDS}
    assert recipes["video/clip"].endswith("/n=1")
    assert len(list(folder.glob("files/media/videos/**/*.mp4"))) == 2


def test_a_scored_run_is_instant(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "Prediction", None)
    before = read(Path(config.run_dir) / "metrics.json")
    assert rerun(config) == 0
    assert read(Path(config.run_dir) / "metrics.json") == before


def test_other_metrics_leave_the_videos_alone(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = videos(config)
    tracker = TrackerSettings(kind="csv")
    without = MetricsSettings(video="tiny-video", clip=None)
    other = replace(config, metrics=without, reference=None, tracker=tracker)
    assert rerun(other) == 0
    found = read(Path(config.run_dir) / "metrics.json")
    scores = {score["name"]: score for score in found["set"]}
    assert {"hd-mse", "flicker"} < scores.keys() and scores.keys().isdisjoint({"clip", "fvd"})
    assert any("no frame-consistency, clip: " in note for note in found["notes"])
    assert "flicker" in capfd.readouterr().err
    with open(Path(config.run_dir) / "csv" / "metrics.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    flicker = scores["flicker"]
    assert float(lines[-1][f"metrics/{flicker['recipe']}/low"]) == flicker["low"]
    values = {float(line["metrics/flicker"]) for line in lines if line["metrics/flicker"]}
    assert {row["flicker"] for row in found["per_video"].values()} <= values
    logged = (Path(config.run_dir) / "csv" / "hparams.yaml").read_text()
    assert "recipe/video/flicker: flicker/mae255/all/n=1" in logged
    monkeypatch.setattr(scoring, "find_captions", None)
    assert rerun(replace(other, metrics=MetricsSettings(enabled=False))) == 0
    assert read(Path(config.run_dir) / "metrics.json") == found and videos(config) == before


def test_a_video_that_was_made_again_is_scored_again(config: GenerateConfig) -> None:
    (Path(config.run_dir) / "videos" / f"{IDS[1]}.mp4").unlink()
    assert rerun(config) == 0
    assert "clip" in read(Path(config.run_dir) / "videos" / f"{IDS[1]}.json")["metrics"]
    assert rerun(config) == 0


def test_a_run_of_one_video_has_all_scores_but_fvd(config: GenerateConfig, tmp_path: Path) -> None:
    alone = replace(config, run_dir=str(tmp_path), prompt=["a red circle"])
    assert rerun(replace(alone, tracker=TrackerSettings(kind="none"))) == 0
    found = read(tmp_path / "metrics.json")
    assert "fvd" not in {score["name"] for score in found["set"]}
    assert "no fvd: a Fréchet distance needs at least two videos in each set" in found["notes"]
    assert all("one video has no interval" in score["warnings"] for score in found["set"])


def test_short_videos_are_scored_only_if_that_is_asked_for(
    config: GenerateConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = replace(config, resolution=SIZE, metrics=MetricsSettings(), reference=None)
    short = replace(short, run_dir=str(tmp_path), prompt=["a red circle"])
    short = replace(short, tracker=TrackerSettings(kind="none"))
    assert rerun(short) == 0
    assert (
        "no scores: videos under 16 frames are scored with metrics=real" in capfd.readouterr().err
    )
    assert not (tmp_path / "metrics.json").exists()
    assert rerun(replace(short, metrics=MetricsSettings(video=None, clip=None, image=None))) == 0
    assert "si" in {score["name"] for score in read(tmp_path / "metrics.json")["set"]}


def test_a_reference_that_cannot_be_used_is_refused_before_anything_is_computed(
    config: GenerateConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"no video")
    run, store = str(tmp_path / "run"), replace(config.store, dir=str(tmp_path / "store"))
    assert rerun(replace(config, run_dir=run, store=store, reference=str(tmp_path / "bad"))) == 2
    assert "no video there can be used; a.mp4: " in capfd.readouterr().err
    assert not (tmp_path / "store").exists() and not list((tmp_path / "run").glob("videos/*"))


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the command line refuses."""
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_what_cannot_be_scored_is_refused_before_anything_is_computed(
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(["metrics=standard"], capsys)
    assert "metrics.clip=clip-vit-l14 needs config.json" in said and "fetch clip-vit-l14" in said
    given = f"reference={reference}"
    said = refused(["metrics=tiny", "metrics.video=i3d-k400", given], capsys)
    assert "metrics.video=i3d-k400 needs i3d_torchscript.pt" in said and "fetch i3d-k400" in said
    assert "reference=" in refused(["reference=nowhere"], capsys)
    assert "asks for scores, and metrics=none" in refused(["metrics=none", given], capsys)
    said = refused(["metrics=none", "metrics.lpips=true"], capsys)
    assert "metrics.lpips=true asks for scores, and metrics=none" in said
    said = refused(["metrics=tiny", "resolution.frames=9"], capsys)
    assert "metrics.video=tiny-video needs 16 frames" in said and "nearest: 17, or" in said
    assert not (tmp_path / "outputs").exists()


def test_automatic_metrics_need_nothing_but_what_is_there(
    config: GenerateConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "clip-vit-l14"
    auto = MetricsSettings(folder=str(tmp_path))
    found = names.resolve_auto(auto, "tiny")
    assert (found.video, found.clip) == (TINY.video, TINY.clip)
    assert found.image in (None, names.IMAGE)
    check(replace(config, metrics=auto, reference=None))
    assert names.resolve_auto(auto, "wan2_2_ti2v_5b").clip is None
    folder.mkdir()
    for name in names.CLIP_FILES:
        (folder / name).touch()
    assert names.resolve_auto(auto, "wan2_2_ti2v_5b").clip == "clip-vit-l14"
    assert names.resolve_auto(auto, "wan2_2_ti2v_5b").video is None
    with pytest.raises(ConfigError, match="is not the known file of clip-vit-l14: its sha256 is"):
        check(replace(config, metrics=replace(auto, clip="clip-vit-l14")))


def test_an_evaluation_is_tracked_like_a_run(config: GenerateConfig, tmp_path: Path) -> None:
    tracker = TrackerSettings(mode="offline")
    given = EvaluateConfig(str(tmp_path), videos=config.run_dir, metrics=TINY, tracker=tracker)
    evaluate(given)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    found, logged = read(tmp_path / "metrics.json"), history(folder)
    assert all(logged[f"metrics/{s['recipe']}"] == s["value"] for s in found["set"])
    assert settings_of(folder)["recipes"]["video/clip"].endswith("/n=1")
