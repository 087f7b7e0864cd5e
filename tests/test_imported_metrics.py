"""Scores of other programs: their result files are read, and what is none is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_evaluate import settings, shape_clip, values, write

from pixelwizard.evaluation.evaluate import SOME_SKIPPED, evaluate
from pixelwizard.evaluation.metrics.vbench import DIMENSIONS
from pixelwizard.evaluation.names import NETWORKS
from pixelwizard.evaluation.networks import VideoNetwork


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(2):
        write(folder / f"clip{seed}.mp4", shape_clip(seed, frames=1))
    (folder / "results").mkdir()
    return folder


def vbench(folder: Path, **dimensions: list[float]) -> None:
    """A file as VBench writes it."""
    found = {
        name: [
            0.5,
            [{"video_path": f"/there/clip{n}.mp4", "video_results": v} for n, v in enumerate(of)],
        ]
        for name, of in dimensions.items()
    }
    (folder / "run_eval_results.json").write_text(json.dumps(found))


def test_vbenchs_result_file_gives_each_dimension_and_their_mean(
    videos: Path, tmp_path: Path
) -> None:
    vbench(
        videos / "results",
        **{name: [0.2, 0.4] for name in DIMENSIONS[:-1]},
        imaging_quality=[20, 40],
    )
    assert evaluate(settings(tmp_path, videos)) == 0
    found = values(tmp_path)
    for name in ("vbench", "vbench-imaging-quality", "vbench-subject-consistency"):
        assert found[name]["value"] == pytest.approx(0.3) and found[name]["videos"] == 2
    assert found["vbench"]["recipe"] == "vbench/vbench-custom_input/mean6/imported/n=2"


def test_result_files_of_dover_and_musiq_are_read(videos: Path, tmp_path: Path) -> None:
    results = videos / "results"
    head = "path, aesthetic score, technical score, overall/final score\n"
    (results / "dover.csv").write_text(f"{head}clip0.mp4, 50, 60, 55\nclip1.mp4, 70, 80, 75\n")
    (results / "musiq.csv").write_text("path,musiq\nclip0.mp4,61.5\n")
    assert evaluate(settings(tmp_path, videos)) == SOME_SKIPPED  # MUSIQ lacks a video
    found = values(tmp_path)
    means = {"dover": 65, "dover-technical": 70, "dover-aesthetic": 60, "musiq": 61.5}
    assert {name: found[name]["value"] for name in means} == pytest.approx(means)
    failed = json.loads((tmp_path / "run" / "metrics.json").read_text())["failed"]
    assert failed["musiq"] == "it failed for clip1 (ValueError: no result for clip1.mp4)"


@pytest.mark.parametrize(
    ("name", "text", "score", "said"),
    [
        (
            "x_eval_results.json",
            "[]",
            "vbench",
            "x_eval_results.json is not a result file of VBench",
        ),
        ("dover.csv", "name,score\na,1\n", "dover", "needs the columns path and overall"),
        (
            "musiq.csv",
            "path,musiq\nclip0.mp4,good\n",
            "musiq",
            "'good' for clip0.mp4 is not a num",
        ),
        ("musiq.csv", "path,musiq\nother.mp4,1\n", "musiq", "no value for any of the videos"),
    ],
)
def test_a_file_that_is_none_costs_its_score_alone(
    name: str, text: str, score: str, said: str, tmp_path: Path
) -> None:
    write(tmp_path / "v" / "clip0.mp4", shape_clip(0, frames=1))
    (tmp_path / "v" / "results").mkdir()
    (tmp_path / "v" / "results" / name).write_text(text)
    evaluate(settings(tmp_path, tmp_path / "v"))
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert said in written["missing"][score] and "hd-mse" in values(tmp_path)


def test_without_a_file_nobody_asked(tmp_path: Path) -> None:
    write(tmp_path / "v" / "clip0.mp4", shape_clip(0, frames=1))
    assert evaluate(settings(tmp_path, tmp_path / "v")) == 0
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "results beside the videos" in written["missing"]["dover"]
    assert not any("dover" in note for note in written["notes"])


def test_vjepa_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    sizes = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1.0)
    small = dict(pred_hidden_size=24, pred_num_hidden_layers=1, pred_num_attention_heads=2)
    model = VJEPA2Model(VJEPA2Config(**sizes, **small, crop_size=64, frames_per_clip=16)).eval()
    model.save_pretrained(tmp_path)
    facts = replace(NETWORKS["vjepa2-l"], dim=24, side=64)
    clips = torch.randint(256, (1, 3, 16, 64, 64), dtype=torch.uint8)
    found = VideoNetwork(facts, tmp_path, torch.device("cpu")).features(clips)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((clips.permute(0, 2, 3, 4, 1) / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        assert torch.allclose(found, model.get_vision_features(pixels).mean(1), atol=1e-5)
