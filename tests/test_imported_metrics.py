"""Scores of other programs: their result files are read, and what is none is named."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_evaluate import settings, shape_clip, values, write

from pixelwizard.config.output import VBENCH, MetricsSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.evaluation.evaluate import SOME_SKIPPED, evaluate
from pixelwizard.evaluation.metrics.vbench import _call
from pixelwizard.evaluation.names import NETWORKS, check_names, resolve_auto
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
        **{name: [0.2, 0.4] for name in VBENCH[:-1]},
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
    assert "results next to the videos; or pixelwizard fetch dover" in written["missing"]["dover"]
    assert written["missing"]["musiq"].endswith("koniq_ckpt.npz into musiq-koniq in metrics.folder")
    assert not any("dover" in note for note in written["notes"])


PROGRAM = """#!{python} -IS
# Takes and writes what VBench's program does: a folder, one dimension, a value a video.
import json, os, pathlib, sys
verb, *words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2]))
assert verb == "evaluate" and given["--mode"] == "custom_input" and "PYTHONPATH" not in os.environ
videos, out = pathlib.Path(given["--videos_path"]), pathlib.Path(given["--output_path"])
found = sorted(path for path in videos.iterdir() if path.suffix == ".mp4" and path.stat().st_size)
with open(pathlib.Path(__file__).with_name("asked"), "a") as log:
    print(given["--dimension"], *(path.name.split(".")[0] for path in found), file=log)
if {broken}:
    sys.exit(print("loading\\nRuntimeError: no GPU here"))  # with code 0
value = {{"dynamic_degree": True, "imaging_quality": 40}}.get(given["--dimension"], 0.4)
each = [{{"video_path": str(path), "video_results": value}} for path in found]
out.mkdir()
text = json.dumps({{given["--dimension"]: [0.5, each]}})
(out / "results_2026-11-29-03:00:00_eval_results.json").write_text(text)
"""


def program(folder: Path, broken: bool = False) -> Path:
    folder.mkdir()
    (folder / "vbench").write_text(PROGRAM.format(python=sys.executable, broken=broken))
    (folder / "vbench").chmod(0o755)
    return folder / "vbench"


def asked(vbench: Path) -> list[str]:
    """What the program was called for since the last look."""
    log = vbench.with_name("asked")
    found = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def test_vbench_is_run_once_for_every_video_and_dimension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    folder = tmp_path / "v $(touch oops)"
    for seed in range(2):
        write(folder / f"clip{seed}.mp4", shape_clip(seed, frames=1))
    vbench = program(tmp_path / "bin")
    metrics = MetricsSettings(video=None, clip=None, image=None, vbench=str(vbench))
    config = settings(tmp_path, folder, metrics=metrics)
    assert evaluate(config) == 0
    assert asked(vbench) == [f"{name} clip0 clip1" for name in VBENCH]
    found = values(tmp_path)
    assert found["vbench"]["value"] == pytest.approx((4 * 0.4 + 1 + 0.4) / 6)
    assert found["vbench-dynamic-degree"]["value"] == 1 and found["vbench"]["videos"] == 2
    assert "VBench took" in (tmp_path / "run" / "evaluate.md").read_text()
    assert evaluate(config) == 0 and asked(vbench) == []
    write(folder / "clip1.mp4", shape_clip(7, frames=1))
    assert evaluate(config) == 0 and asked(vbench) == [f"{name} clip1" for name in VBENCH]


def test_a_vbench_that_fails_costs_its_scores_alone(tmp_path: Path) -> None:
    write(tmp_path / "v" / "clip0.mp4", shape_clip(0, frames=1))
    vbench = program(tmp_path / "bin", broken=True)
    metrics = MetricsSettings(video=None, clip=None, image=None, vbench=str(vbench))
    assert evaluate(settings(tmp_path, tmp_path / "v", metrics=metrics)) == SOME_SKIPPED
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    why = "VBench wrote no result; it ended with code 0 and said: RuntimeError: no GPU here"
    assert written["failed"] == {f"vbench-{name.replace('_', '-')}": why for name in VBENCH}
    assert "hd-mse" in values(tmp_path) and not (tmp_path / "v" / "results").exists()


def test_auto_takes_the_vbench_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vbench = program(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resolve_auto(MetricsSettings(), "tiny").vbench is None
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert resolve_auto(MetricsSettings(), "tiny").vbench == str(vbench)
    with pytest.raises(ConfigError, match="metrics.vbench=.*nowhere is no program; give the path"):
        check_names(MetricsSettings(video=None, clip=None, image=None, vbench="nowhere"))


@pytest.fixture
def alarm() -> Iterator[type[Exception]]:
    """An error in 0.2 s."""

    class Alarm(Exception):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    yield Alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_an_interrupted_program_ends_with_all_its_processes(
    tmp_path: Path, alarm: type[Exception]
) -> None:
    said = tmp_path / "said"
    with pytest.raises(alarm):
        _call(["sh", "-c", "sleep 60 & echo $!; wait"], said)
    words, deadline = Path(f"/proc/{said.read_text().strip()}/cmdline"), time.monotonic() + 10
    while words.exists() and words.read_text():  # without words it has ended, if not been reaped
        assert time.monotonic() < deadline


def test_vjepa_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    sizes = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1.0)
    small = dict(pred_hidden_size=24, pred_num_hidden_layers=1, pred_num_attention_heads=2)
    model = VJEPA2Model(VJEPA2Config(**sizes, **small, crop_size=64, frames_per_clip=16)).eval()
    model.save_pretrained(tmp_path)
    facts = replace(NETWORKS["vjepa2-l"], dim=24, side=64, sha256="")
    clips = torch.randint(256, (1, 3, 16, 64, 64), dtype=torch.uint8)
    found = VideoNetwork(facts, tmp_path, torch.device("cpu")).features(clips)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((clips.permute(0, 2, 3, 4, 1) / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        assert torch.allclose(found, model.get_vision_features(pixels).mean(1), atol=1e-5)
