"""evaluate: any folder of videos is scored; what cannot be scored is named."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelwizard.cli.main import main
from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.output import MetricsSettings, VideoSettings
from pixelwizard.data import shapes
from pixelwizard.data.table import find_videos
from pixelwizard.evaluation import evaluate, look, names
from pixelwizard.evaluation.ffmpeg import has_filter
from pixelwizard.evaluation.files import Clip, backbone_of, find_captions, inspect
from pixelwizard.evaluation.metrics.flicker import Flicker
from pixelwizard.evaluation.metrics.hd_mse import HDMSE, lost
from pixelwizard.evaluation.metrics.hd_mse_noise import HDMSENoise
from pixelwizard.evaluation.metrics.psnr import PSNR
from pixelwizard.evaluation.metrics.ssim import SSIM
from pixelwizard.evaluation.metrics.vmaf import VMAF
from pixelwizard.io.video import VideoError, VideoWriter

LOSSLESS = VideoSettings(codec="ffv1")
WIDTH, HEIGHT = 128, 80
TINY = MetricsSettings(video="tiny-video", clip="tiny-clip")
PAIRED = {"psnr": PSNR, "ssim": SSIM, "vmaf": VMAF}


def write(path: Path, frames: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, frames.shape[2], frames.shape[1], LOSSLESS) as writer:
        writer.write(frames)
    return path


def shape_clip(seed: int, frames: int = 17, width: int = WIDTH) -> np.ndarray:
    return shapes.render(shapes.scene(seed, "heldout"), width, HEIGHT, frames)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with captions in captions.csv, and as a run would have written them."""
    folder = tmp_path_factory.mktemp("videos")
    rows = ["id,text"]
    for seed in range(3):
        write(folder / f"clip{seed}.mp4", shape_clip(seed))
        rows.append(f"clip{seed},{shapes.caption(shapes.scene(seed, 'heldout'))}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    for seed in range(4):
        write(folder / f"clip{seed + 1}.mp4", shape_clip(seed + 1))
    return folder


def settings(folder: Path, videos: Path, **changes: object) -> EvaluateConfig:
    (folder / "run").mkdir(exist_ok=True)
    config = EvaluateConfig(run_dir=str(folder / "run"), videos=str(videos), metrics=TINY)
    return replace(config, **changes)  # type: ignore[arg-type]


def values(folder: Path) -> dict[str, dict[str, object]]:
    written = json.loads((folder / "run" / "metrics.json").read_text())
    return {score["name"]: score for score in written["set"]}


def test_every_score_of_a_folder_has_recipe_and_interval(
    videos: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = str(videos / "captions.csv")
    config = settings(tmp_path, videos, captions=captions, reference=str(reference))
    assert evaluate.evaluate(config) == 0
    found = values(tmp_path)
    names = {"clip", "frame-consistency", "hd-mse", "hd-mse-noise", "flicker", "fvd", "hd-fvd"}
    names |= {"high-frequency"}
    names |= {"video-mmd", "si", "ti", "warping-error", "blur", "blockiness"}
    paired = {name for name, kind in PAIRED.items() if has_filter(kind.filter)}
    assert set(found) == names | paired
    for name, score in found.items():
        videos_ = 2 if name in paired else 3  # clip1 and clip2 have a reference
        assert score["low"] <= score["value"] <= score["high"]  # type: ignore[operator]
        assert score["videos"] == videos_ and f"n={videos_}" in str(score["recipe"])
    assert found["psnr"]["value"] == 100 and found["ssim"]["value"] == 1
    (real,) = {str(found[name]["recipe"]).rpartition("/ref=")[2] for name in ("psnr", "fvd")}
    assert len(real) == 8
    shown, page = capsys.readouterr().out, (tmp_path / "run" / "evaluate.md").read_text()
    for score in found.values():
        assert str(score["recipe"]) in shown and str(score["recipe"]) in page
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(written["per_video"]) == {"clip0", "clip1", "clip2"}
    assert "fewer than the 64 features" in shown and "Apache-2.0" in page


def test_a_second_evaluation_reads_the_reference_from_its_statistics(
    videos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tmp_path, videos, reference=str(reference))
    evaluate.evaluate(config)
    first, seen = values(tmp_path)["fvd"], []

    whole = look.look

    def only_videos(clip: Clip, metrics: object) -> object:
        seen.append(clip.path.parent)
        return whole(clip, metrics)  # type: ignore[arg-type]

    monkeypatch.setattr(look, "look", only_videos)
    evaluate.evaluate(config)
    assert values(tmp_path)["fvd"] == first and set(seen) == {videos}


def test_a_folder_against_itself_has_no_distance(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    for path in videos.glob("*.mp4"):
        write(folder / path.name, shape_clip(int(path.stem[-1])))
    evaluate.evaluate(settings(tmp_path, videos, reference=str(folder)))
    found = values(tmp_path)
    assert found["fvd"]["value"] < 1e-6 and found["hd-fvd"]["value"] < 1e-6  # type: ignore[operator]


def test_what_cannot_be_scored_is_skipped_and_named(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    for seed in range(2):
        write(folder / f"good{seed}.mp4", shape_clip(seed))
    write(folder / "short.mp4", shape_clip(0, frames=15))
    write(folder / "wide.mp4", shape_clip(0, width=144))
    write(folder / "good1.mov", shape_clip(1))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_bytes(b"no video at all")
    whole = (folder / "good0.mp4").read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    assert evaluate.evaluate(settings(tmp_path, folder)) == evaluate.SOME_SKIPPED
    said = capsys.readouterr().out
    assert "the videos have several sizes (128x80, 144x80): each is scored at its own" in said
    for name in ("empty.mp4", "text.mp4", "torn.mp4"):
        assert f"skipped {name}: " in said
    assert "skipped good1.mp4: another video has its name without suffix" in said
    assert values(tmp_path)["hd-mse"]["videos"] == 4
    assert "no clip: no caption for good0, good1, short, wide" in said


def test_a_clip_that_ends_early_is_skipped_after_it_was_found(tmp_path: Path) -> None:
    clip = replace(inspect(write(tmp_path / "a.mp4", shape_clip(0))), frames=20)
    with pytest.raises(VideoError, match="a.mp4 ends after 17 of 20 frames"):
        look.look(clip, [Flicker()])


def test_a_run_knows_its_captions_and_its_backbone(videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run0"
    write(run / "videos" / "a.mp4", shape_clip(0))
    write(run / "videos" / "a.anchor.mp4", shape_clip(0))
    written = {"prompt": "a red circle", "config": {"backbone": {"name": "tiny"}}}
    (run / "videos" / "a.json").write_text(json.dumps(written))
    paths = find_videos(run, "videos")
    assert [path.name for path in paths] == ["a.mp4"]
    assert find_captions(paths, None) == ({"a": "a red circle"}, [])
    assert backbone_of(paths) == "tiny" and backbone_of([*paths, run / "b.mp4"]) == ""


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the command line refuses."""
    assert main(["evaluate", *words]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said


def test_mistakes_are_refused_before_anything_is_written(
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    (tmp_path / "others.csv").write_text("id,text\nx,a red circle\n")
    assert "videos is missing" in refused([], capsys)
    assert "nowhere is not a folder" in refused(["videos=nowhere"], capsys)
    assert "none holds no video" in refused(["videos=none"], capsys)
    given = [f"videos={videos}"]
    assert "matches no video: its names begin with 'x'" in refused(
        [*given, "captions=others.csv"], capsys
    )
    assert "captions=" in refused([*given, "captions=nowhere.csv"], capsys)
    assert "reference=" in refused([*given, "reference=none"], capsys)
    known = "metrics.clip=none must be one of clip-vit-l14, longclip-l, tiny-clip"
    assert known in refused([*given, "metrics.clip=none"], capsys)
    assert "metrics=none leaves nothing to evaluate" in refused([*given, "metrics=none"], capsys)
    assert not (tmp_path / "outputs").exists()


def test_what_is_not_installed_costs_its_own_scores_alone(
    videos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = MetricsSettings(
        video="i3d-k400", clip="longclip-l", image="efficientnet-lite0", lpips=True
    )
    asked = replace(asked, folder=str(tmp_path / "nowhere"))
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    config = settings(tmp_path, videos, reference=str(reference), metrics=asked)
    assert evaluate.evaluate(config) == evaluate.SOME_SKIPPED
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"hd-mse", "flicker", "si", "ti"} <= set(values(tmp_path))
    failed = written["failed"]
    assert failed["fvd"].endswith("i3d-k400; fetch it with: pixelwizard fetch i3d-k400")
    assert "metrics.clip=longclip-l needs config.json, model.safetensors" in failed["clip"]
    assert "pip install 'pixelwizard[features]'" in failed["patch-kid"]
    assert "metrics.lpips=true needs torchvision" in failed["hd-lpips"]
    monkeypatch.setattr(names, "find_spec", lambda name: name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="needs alexnet-owt-7be5be79.pth in .*fetch it with"):
        names.require(MetricsSettings(video=None, clip=None, image=None, lpips=True), False)


def test_auto_leaves_out_what_is_not_installed_and_says_how_to_get_it(
    videos: Path, reference: Path, tmp_path: Path
) -> None:
    asked = MetricsSettings(image=None, folder=str(tmp_path / "nowhere"))
    config = settings(tmp_path, videos, reference=str(reference), metrics=asked)
    assert evaluate.evaluate(config) == 0
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    missing = (
        "no fvd, hd-fvd, video-mmd: metrics.video names no network; pixelwizard fetch i3d-k400"
    )
    assert any(note.startswith(missing) for note in notes)


def test_clips_that_are_too_short_for_a_metric_are_named_there(
    videos: Path, tmp_path: Path
) -> None:
    write(tmp_path / "few" / "still.mp4", shape_clip(0, frames=1))
    write(tmp_path / "few" / "long.mp4", shape_clip(1))
    assert evaluate.evaluate(settings(tmp_path, tmp_path / "few", reference=str(videos))) == 0
    found = values(tmp_path)
    assert found["hd-mse"]["videos"] == 2 and found["flicker"]["videos"] == 1
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    assert "flicker: still.mp4 has 1 frame, and at least 2 are needed" in notes
    assert any("still.mp4 has 1 frame, and at least 16 are needed" in note for note in notes)


def test_temporal_metrics_need_one_frame_rate(tmp_path: Path) -> None:
    for name, fps in (("slow", 12), ("fast", 24)):
        path = tmp_path / "rates" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        with VideoWriter(path, WIDTH, HEIGHT, replace(LOSSLESS, fps=fps)) as writer:
            writer.write(shape_clip(0))
    assert evaluate.evaluate(settings(tmp_path, tmp_path / "rates")) == 0
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    (said,) = (note for note in notes if "frame rates" in note)
    assert said.startswith(
        "no ti, flicker, warping-error, frame-consistency, fvd, hd-fvd, video-mmd, frame-mmd: the"
        " videos have several frame rates (12, 24 per second)"
    )
    assert "hd-mse" in values(tmp_path)


def test_a_reference_that_is_the_videos_is_named(videos: Path, tmp_path: Path) -> None:
    evaluate.evaluate(settings(tmp_path, videos, reference=str(videos)))
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    assert "the reference holds the videos themselves: a distance to it says little" in notes


def test_a_reference_of_other_sizes_and_rates_is_named(videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "real" / "wide.mp4"
    path.parent.mkdir()
    with VideoWriter(path, 144, HEIGHT, replace(LOSSLESS, fps=30)) as writer:
        writer.write(shape_clip(0, width=144))
    evaluate.evaluate(settings(tmp_path, videos, reference=str(path.parent)))
    notes = json.loads((tmp_path / "run" / "metrics.json").read_text())["notes"]
    told = [note for note in notes if note.startswith("the reference has other")]
    assert [note.split(":")[0] for note in told] == [
        "the reference has other sizes than the videos (144x80, here 128x80)",
        "the reference has other frame rates than the videos (30, here 24)",
    ]


def test_a_folder_without_a_single_good_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="no video can be scored; a.mp4: "):
        evaluate.evaluate(settings(tmp_path, tmp_path))


def test_the_command_starts_a_worker_with_the_settings(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(
        "pixelwizard.launch.launch.launch", lambda folder: started.append(folder) or 0
    )
    assert main(["evaluate", f"videos={videos}", f"run_dir={tmp_path / 'run'}"]) == 0
    assert started == [tmp_path / "run"]
    assert f"videos: {videos}" in (tmp_path / "run" / "config.yaml").read_text()


def test_one_json_object_and_nothing_else(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.evaluate(settings(tmp_path, videos, format="json"))
    assert json.loads(capsys.readouterr().out)["set"]


def test_psnr_falls_with_noise(tmp_path: Path) -> None:
    clean = shape_clip(0)
    noise = np.random.default_rng(0).normal(0, 12, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).astype(np.uint8)
    one, two = write(tmp_path / "a.mp4", clean), write(tmp_path / "b.mp4", noisy)
    assert 20 < PSNR.similarity(two, one) < 35 and 0 < SSIM.similarity(two, one) < 0.95


def test_flicker_is_the_mean_change_between_frames(tmp_path: Path) -> None:
    frames = np.zeros((17, 16, 32, 3), np.uint8)
    frames[1::2] = 10
    metric = Flicker()
    (seen,) = look.look(inspect(write(tmp_path / "a.mp4", frames)), [metric])
    metric.update(look.raised(seen))
    assert metric.compute() == 10


def test_hd_lpips_sums_any_distance() -> None:
    assert lost(torch.zeros(3, 64, 64), lambda one, two: 1.0) == 3


def test_memory_grows_neither_with_length_nor_with_number_of_clips(tmp_path: Path) -> None:
    """320x200 and 400 frames are 77 MB as bytes, 307 MB as floats; 12 times 20 frames are 46 MB."""
    frame = np.random.default_rng(0).integers(0, 255, (1, 200, 320, 3), np.uint8)
    for name, frames in (("short", 20), ("long", 400)):
        with VideoWriter(tmp_path / f"{name}.mp4", 320, 200, VideoSettings(crf=40)) as writer:
            for _ in range(frames):
                writer.write(frame)
    known = [Flicker(), HDMSE(), HDMSENoise()]
    short, long = (inspect(tmp_path / f"{name}.mp4") for name in ("short", "long"))
    peaks = []
    for some in ([short] * 2, [long], [short] * 12):
        for _, found in look.look_at_all(some, known):
            found()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print("peak MB after 2 clips of 20 frames, one of 400, 12 of 20:", *map(round, peaks))
    assert peaks[1] - peaks[0] < 25 and peaks[2] - peaks[1] < 25


def test_settings_name_networks_that_are_inside_the_package() -> None:
    for kind in ("video", "clip"):
        network = names.network_of(TINY, kind)
        folder = names.network_folder(network, TINY)
        assert all((folder / name).is_file() for name in network.files)
