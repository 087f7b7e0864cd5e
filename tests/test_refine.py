"""Given clips: they take the anchor's place, keep their shape, length, rate and sound."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from ranks import free_port, runs, start
from safetensors.torch import load_file
from small import SIZE, small_config, write_backbone, write_config
from test_golden import GoldenDiT, relative_error

import pixelwizard as pw
from pixelwizard import worker
from pixelwizard.cli.arguments import parse
from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import GenerateConfig, RefineSettings, SamplerSettings
from pixelwizard.config.geometry import Geometry, ResolutionSettings, windows_of
from pixelwizard.config.output import VideoSettings
from pixelwizard.config.parallel import ParallelSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target
from pixelwizard.data import shapes
from pixelwizard.data.examples import blur, resized, to_video
from pixelwizard.data.prompts import prompts_of
from pixelwizard.data.source_files import frames_of, source_of
from pixelwizard.diffusion.sampling import SolverState, blended, initial_noise, sample
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.evaluation.metrics.high_frequency import high_frequency
from pixelwizard.generation import encoding, predict
from pixelwizard.generation.replay import repetition
from pixelwizard.generation.run import check
from pixelwizard.io.process import Interrupted
from pixelwizard.io.reading import probe, read_frames
from pixelwizard.io.video import VideoWriter
from pixelwizard.models.attention.window import Window
from pixelwizard.models.wan.vae import to_pixels
from pixelwizard.models.weights import load_vae
from pixelwizard.records.run_folder import claim
from pixelwizard.stages.agree import SHARP, agreement_of, sharpness
from pixelwizard.stages.latents import Detail, EncodeVideo


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def write_clip(
    path: Path, frames: int = 7, width: int = 64, height: int = 32, fps: int = 12
) -> Path:
    """A bright bar moves over a ramp."""
    ramp = np.linspace(0, 160, width)[None, :, None] * np.ones((height, 1, 3))
    clip = np.repeat(ramp[None], frames, 0).astype(np.uint8)
    for number in range(frames):
        clip[number, :, 2 * number % width : 2 * number % width + 6] = (250, 40, 90)
    with VideoWriter(path, width, height, VideoSettings(crf=1, fps=fps)) as writer:
        writer.write(clip)
    return path


def with_sound(path: Path, codec: str, container: str = "mp4") -> Path:
    """A clip of 14 frames at 14 fps with a second of sound."""
    with av.open(str(path), "w", format=container) as out:
        video = out.add_stream("libx264", rate=14)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        sound = out.add_stream(codec, rate=48000)
        for number in range(14):
            pixels = np.full((32, 64, 3), 10 * number, np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(video.encode())
        layout = np.zeros((1, 48000), np.float32) + 0.1 * np.sin(np.arange(48000) / 20)
        frame = av.AudioFrame.from_ndarray(layout.astype(np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(sound.format, sound.layout, 48000, frame_size=1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(sound.encode(part))
        out.mux(sound.encode())
    return path


def stop_after_a_detail_step(patch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes when the state of a detail step has been stored."""
    save = predict.Store.save

    def stopping(self: predict.Store, kind: str, *rest: object) -> None:
        save(self, kind, *rest)  # type: ignore[arg-type]
        if kind == "detail_state":
            raise Interrupted(15)

    patch.setattr(predict.Store, "save", stopping)


def refining(
    backbone: BackboneSettings, folder: Path, *clips: Path, **changes: object
) -> GenerateConfig:
    files = [str(clip) for clip in clips]
    return small_config(backbone, folder, prompt=[], from_video=files, **changes)


def run(config: GenerateConfig) -> int:
    return worker.run(write_config(config))


def record(config: GenerateConfig, id: str) -> dict:
    return json.loads((Path(config.run_dir) / "videos" / f"{id}.json").read_text("utf-8"))


def test_a_clip_takes_the_anchors_place_and_keeps_its_length_and_rate(
    backbone: BackboneSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "my clip (1).mp4")
    (tmp_path / "my clip (1).txt").write_text("a red\ncircle")
    config = refining(backbone, tmp_path, clip, save_anchor=True)
    assert run(config) == 0
    made, said = record(config, "my-clip-1"), capfd.readouterr().err
    info = probe(Path(config.run_dir) / "videos" / "my-clip-1.mp4", count=True)
    assert (info.width, info.height, info.frames, info.fps) == (128, 64, 7, 12.0)
    assert made["prompt"] == "a red circle" and "anchor" not in made
    assert list(made["stages"]) == ["text", "encode", "detail", "decode"]
    assert set(made["keys"]) == {"text", "encode", "detail"}
    assert made["source"]["sha256"] == source_of("video", clip, "").sha256
    assert made["source"]["path"] == str(clip.resolve()) and made["source"]["frames"] == 7
    psnr = made["stages"]["encode"]["reconstruction_psnr"]
    assert psnr < 28 and f"reconstructs my clip (1).mp4 at only {psnr:.1f} dB" in said
    stored = next(Path(config.store.dir).glob("encode/*/*.safetensors"))
    encode = EncodeVideo(load_vae(backbone), SIZE.geometry.latent_grid[0])
    frames = frames_of(source_of("video", clip, ""), Geometry(64, 32, 9), Geometry(128, 64, 9))
    assert torch.allclose(load_file(stored)["anchor"], encode(frames), atol=1e-5)
    anchor = list(read_frames(Path(config.run_dir) / "videos" / "my-clip-1.anchor.mp4"))
    assert len(anchor) == 7 and anchor[0].shape == (32, 64, 3)
    assert not list(Path(config.store.dir).glob("anchor/*"))


def test_results_go_by_what_the_file_holds_and_not_by_its_name(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    config = refining(backbone, tmp_path, clip)
    assert run(config) == 0
    moved = clip.rename(tmp_path / "b.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(encoding.EncodeLoop, "predict_step", None)
        patch.setattr(predict.DetailLoop, "predict_step", None)
        again = refining(backbone, tmp_path, moved, run_dir=str(tmp_path / "again"))
        assert run(again) == 0
    write_clip(moved, frames=6)
    third = refining(backbone, tmp_path, moved, run_dir=str(tmp_path / "third"))
    assert run(third) == 0
    assert record(third, "b")["key"] != record(again, "b")["key"] == record(config, "a")["key"]


def test_frames_follow_the_shape_of_the_clip() -> None:
    demo, four = ResolutionSettings(512, 320, 17), ResolutionSettings(3840, 2144, 121)
    assert demo.shaped(256, 160) is demo and four.shaped(1920, 1080) is four
    upright = four.shaped(1080, 1920)
    assert (upright.width, upright.height) == (2144, 3840)
    assert (upright.anchor_width, upright.anchor_height) == (256, 448)
    for width, height in ((1280, 720), (500, 500), (640, 272), (144, 176)):
        shaped = demo.shaped(width, height)
        shaped.check("resolution")
        assert 0.85 < shaped.width * shaped.height / (512 * 320) < 1.15
        assert 0.93 < shaped.width / shaped.height * height / width < 1.07
    with pytest.raises(ConfigError, match="a frame of 3x2000 has too extreme an aspect ratio"):
        demo.shaped(3, 2000)


def test_both_sizes_of_a_clip_show_the_same_part_of_it(tmp_path: Path) -> None:
    source = source_of("video", write_clip(tmp_path / "a.mp4", width=128, height=64), "")
    shape = Geometry(96, 64, 9)  # cuts 16 columns at each side
    whole = next(iter(frames_of(source, shape, shape)))
    small = next(iter(frames_of(source, Geometry(64, 32, 9), shape)))
    halves = whole.reshape(32, 2, 96, 3).mean(1).reshape(32, 32, 3, 3)
    assert abs(small.reshape(32, 32, 2, 3).mean(2) - halves.mean(2)).mean() < 2


def test_a_long_clip_goes_through_in_windows_and_resumes_to_the_bit(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=18)
    config = refining(backbone, tmp_path, clip)
    assert run(config) == 0
    info = probe(Path(config.run_dir) / "videos" / "a.mp4", count=True)
    assert info.frames == 18
    (first,) = Path(config.store.dir).glob("detail/*/*.safetensors")
    other = refining(backbone, tmp_path / "b", clip)
    with monkeypatch.context() as patch:
        stop_after_a_detail_step(patch)
        assert run(other) == 143
    assert run(other) == 0
    (second,) = Path(other.store.dir).glob("detail/*/*.safetensors")
    assert torch.equal(load_file(first)["latent"], load_file(second)["latent"])
    assert load_file(first)["latent"].shape[1] == 6


SAMPLED = {
    "euler, exact": ("euler", "none", None),
    "unipc, mask": ("unipc", Target("mask", {"pattern": "110101"}), None),
    "dpmpp, taylor": ("dpmpp", "taylor", None),
    "unipc, first block": ("unipc", Target("first_block", {"threshold": 0.3}), None),
    "unipc, window": ("unipc", Target("mean", {"pattern": "110101"}), Window([1, 1, 2])),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SAMPLED)
def test_every_solver_skip_and_attention_goes_through_windows_and_resumes(
    golden: Path, name: str
) -> None:
    solver, skip, attention = SAMPLED[name]
    dit, draw = GoldenDiT(golden), torch.Generator().manual_seed(0)
    network, sizes = dit.detail(), dit.sizes
    sampler = SamplerSettings(solver=solver, steps=6, step_sizes="raw", skip=skip)
    stage = Detail(network, make_schedule(sampler, 5.0), 3.0, window=3)
    if attention is not None:
        network.attention = attention
    noise, anchor = (torch.randn(sizes.in_dim, 5, 4, 8, generator=draw) for _ in range(2))
    texts = [torch.randn(3, sizes.text_dim, generator=draw) for _ in range(2)]
    states: list[SolverState] = []
    end = stage(noise, anchor, *texts, on_step=states.append)
    assert torch.equal(stage(noise, anchor, *texts, state=states[2]), end)
    stage.window = None
    assert not torch.allclose(stage(noise, anchor, *texts), end, atol=1e-3)


NEAR = Target("window", {"size": [1, 1, 2]})
RANKS = {
    "alone": (1, ParallelSettings()),
    "guidance": (2, ParallelSettings("guidance")),
    "ulysses": (2, ParallelSettings("ulysses", sequence=2)),
    "sharded": (2, ParallelSettings("fsdp", prompts=2, shard="all")),
}


def test_every_layout_of_ranks_refines_as_one_process_and_continues_its_run(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clips in windows, from a sigma on, with skipped steps and windows of attention."""
    clips = [write_clip(tmp_path / f"{name}.mp4") for name in "ab"]
    skip = Target("mean", {"pattern": "101"})
    steps = SamplerSettings(solver="dpmpp", steps=3, step_sizes="raw", skip=skip)
    how = {"schedule": steps, "refine": RefineSettings("0.95", agree="clip"), "attention": NEAR}
    configs = {
        name: refining(backbone, tmp_path / name, *clips, parallel=parallel, **how)
        for name, (_, parallel) in RANKS.items()
    }
    with monkeypatch.context() as patch:
        stop_after_a_detail_step(patch)
        assert run(replace(configs["ulysses"], parallel=ParallelSettings())) == 143
    assert list(Path(configs["ulysses"].store.dir).glob("detail_state/*/*"))
    jobs = [
        (str(write_config(config)), RANKS[name][0], free_port()) for name, config in configs.items()
    ]
    assert start(2, runs, jobs, tmp_path) == [0, 0]
    expected = refined_latents(configs.pop("alone"))
    for name, config in configs.items():
        found = refined_latents(config)
        assert found.keys() == expected.keys() and len(found) == 2, name
        for key, latent in found.items():
            assert relative_error(latent, expected[key]) < 1e-5, name
        assert len(list(Path(config.run_dir).glob("videos/*.mp4"))) == 2, name
        assert not list(Path(config.store.dir).glob("detail_state/*/*")), name


def refined_latents(config: GenerateConfig) -> dict[str, torch.Tensor]:
    files = Path(config.store.dir).glob("detail/*/*.safetensors")
    return {file.stem: load_file(file)["latent"] for file in files}


def test_windows_are_equal_and_share_a_third() -> None:
    assert windows_of(5, 5) == [slice(0, 5)] and windows_of(3, 31) == [slice(0, 3)]
    for frames, window in ((6, 5), (14, 5), (40, 31), (200, 31), (9, 2), (7, 1)):
        spans = windows_of(frames, window)
        assert spans[0].start == 0 and spans[-1].stop == frames
        assert all(span.stop - span.start == window for span in spans)
        shared = [a.stop - b.start for a, b in zip(spans, spans[1:], strict=False)]
        assert min(shared) >= (window / 3 if window > 1 else 0)


def test_a_long_clip_is_encoded_in_parts_that_the_encoder_knows(
    backbone: BackboneSettings,
) -> None:
    vae, draw = load_vae(backbone), np.random.default_rng(0)
    frames = draw.integers(0, 256, (45, 32, 32, 3), np.uint8)
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    parts = [vae.encode(video[:, :, start : start + 17])[0] for start in (0, 12, 24, 36)]
    expected = torch.cat([parts[0], *(part[:, 2:] for part in parts[1:])], dim=1)
    assert torch.allclose(EncodeVideo(vae, 5)(iter(frames)), expected, atol=1e-5)
    assert torch.equal(EncodeVideo(vae, 5)(frames[:17]), parts[0])


def test_what_all_windows_agree_on_is_not_changed_by_blending() -> None:
    truth = torch.randn(1, 2, 14, 3, 4)
    found = blended(lambda span: truth[:, :, span], 14, 5)
    assert torch.allclose(found, truth, atol=1e-6)
    levels = iter(range(4))
    steps = blended(lambda span: torch.full((1, 1, 5, 1, 1), float(next(levels))), 14, 5)
    assert (steps.flatten().diff() >= 0).all() and steps.flatten().diff().max() < 0.6


def test_a_start_enters_the_schedule_where_it_says() -> None:
    settings = SamplerSettings(steps=4, step_sizes="raw", guidance=3.0, guided_steps=[0, 2])
    whole = make_schedule(settings, 5.5)
    left = make_schedule(settings, 5.5, start=0.9)
    assert left.sigmas == (0.9, *whole.sigmas[2:]) and left.steps[0].timestep == 900
    assert left.steps[0].dt == 54 and left.steps[1:] == whole.steps[2:]
    assert [step.guided for step in left.steps] == [False, True, False]
    assert len(make_schedule(settings, 5.5, start=0.9999).steps) == 4
    assert len(make_schedule(settings, 5.5, start=0.1).steps) == 1
    same = make_schedule(settings, 5.5, start=round(whole.sigmas[1], 3))
    assert same.sigmas[1:] == whole.sigmas[2:]
    x = initial_noise((1, 1, 2, 2, 2), 0)
    half = sample(
        lambda x, step: x, x, make_schedule(SamplerSettings("euler", steps=2), 1.0, start=0.5)
    )
    assert torch.allclose(half, x * 0.5, atol=1e-6)


def test_a_start_begins_with_the_enlarged_clip_and_asks_less_often(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    plain = refining(backbone, tmp_path, clip)
    near = replace(plain, run_dir=str(tmp_path / "near"), refine=RefineSettings("0.001"))
    noisy = replace(plain, run_dir=str(tmp_path / "noisy"), refine=RefineSettings(anchor_noise=0.1))
    assert [run(config) for config in (plain, near, noisy)] == [0, 0, 0]
    first, second, third = (record(config, "a") for config in (plain, near, noisy))
    assert [len(r["detail"]["steps"]) for r in (first, second, third)] == [2, 1, 2]
    assert len({r["keys"]["detail"] for r in (first, second, third)}) == 3
    assert first["keys"]["encode"] == third["keys"]["encode"] != second["keys"]["encode"]
    (stored,) = (p for p in Path(plain.store.dir).glob("encode/*/*") if "start" in load_file(p))
    key = second["keys"]["detail"]
    end = load_file(Path(plain.store.dir) / "detail" / key[:2] / f"{key}.safetensors")["latent"]
    assert (end - load_file(stored)["start"]).abs().max() < 0.1


@pytest.mark.parametrize(
    ("codec", "container", "kept"), [("aac", "mp4", "aac"), ("pcm_s16le", "matroska", "aac")]
)
def test_the_sound_of_a_clip_is_kept(
    backbone: BackboneSettings,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    codec: str,
    container: str,
    kept: str,
) -> None:
    clip = with_sound(tmp_path / "a.mkv", codec, container)
    config = refining(backbone, tmp_path, clip, video=VideoSettings(png=True))
    assert run(config) == 0
    with av.open(str(Path(config.run_dir) / "videos" / "a.mp4")) as made:
        (sound,) = made.streams.audio
        assert sound.codec.canonical_name == kept
        assert abs(float(sound.duration * sound.time_base) - 1) < 0.1
    assert ("its sound, pcm_s16le, becomes AAC" in capfd.readouterr().err) == (codec != kept)
    assert len(list((Path(config.run_dir) / "videos" / "a").glob("*.png"))) == 14


def test_a_refined_video_is_replayed_from_its_clip_and_from_no_other(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    config = refining(backbone, tmp_path, clip, seed=3)
    assert run(config) == 0
    video = Path(config.run_dir) / "videos" / "a.mp4"
    again = replace(repetition(video, str(tmp_path / "again")), store=config.store)
    assert again.from_video == [str(clip.resolve())] and again.prompt == []
    assert worker.run(claim(again, ["pixelwizard"])) == 0
    assert record(again, "a")["key"] == record(config, "a")["key"]
    moved = clip.rename(tmp_path / "moved.mp4")
    with pytest.raises(ConfigError, match="was made of a.mp4 with the sha256 .* given=FILE"):
        repetition(video, None)
    assert repetition(video, None, source=str(moved)).from_video == [str(moved)]
    write_clip(moved, frames=6)
    with pytest.raises(ConfigError, match="moved.mp4 is not it"):
        repetition(video, None, source=str(moved))


def test_clips_come_from_options_from_a_folder_and_from_a_table(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "b/x.mp4"):
        (tmp_path / name).parent.mkdir()
        write_clip(tmp_path / name)
    (tmp_path / "a" / "x.txt").write_text("beside")
    two = [str(tmp_path / name) for name in ("a/x.mp4", "b/x.mp4")]
    words = [f"--video={two[0]}", "--video", two[1]]

    def prompts(*more: str) -> list[tuple[str, str]]:
        arguments = parse(more)
        (made,) = compose("generate", arguments.all_overrides, arguments.prompts)
        return [(prompt.id, prompt.text) for prompt in prompts_of(made.config)]

    assert prompts(*words) == [("x", "beside"), ("x-2", "")]
    assert prompts(*words, "--prompt", "one") == [("x", "one"), ("x-2", "one")]
    assert prompts(*words, "--prompt", "one", "--prompt", "two") == [("x", "one"), ("x-2", "two")]
    assert prompts(f"videos={tmp_path}") == [("x", "beside"), ("x-2", "")]
    table = tmp_path / "t.csv"
    table.write_text("id,video,prompt,seed\none,a/x.mp4,,3\ntwo,,only a text,\n")
    assert prompts(f"prompts={table}") == [("one", "beside"), ("two", "only a text")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--video", "none.mp4"], r"--video: \S*none.mp4 does not exist"),
        (["--video", "."], r"--video: \S* is a folder; give a file; videos=DIR refines every clip"),
        (["--video", ""], "--video is empty; give a file, like --video clip.mp4"),
        (["--video", "pipe"], r"--video: \S*pipe is a pipe or a device; save it as a file first"),
        (["--video", "still.gif"], "still.gif has a single frame, .*; --image FILE begins a video"),
        (
            ["--image", "short.mp4"],
            "an MP4 or MOV video, not a picture; .*; --video FILE refines",
        ),
        (["video=a.mp4"], "video: use --video FILE or videos=DIR for clips to refine"),
        (["image=a.png"], "image: use --image FILE for a picture that a video begins with"),
        (["--video", "text.mp4"], "--video: text.mp4 cannot be read as a video: it is a text file"),
        (["--video", "short.mp4"], "short.mp4 has 4 frames, and at least 5 are needed"),
        (["--video", "a.mp4", *["--prompt", "x"] * 2], "there are 2 --prompt for 1 clips"),
        (["--video", "a.mp4", "prompts=t.csv"], "--video and prompts=FILE exclude each other"),
        (["--video", "a.mp4", "video.fps=30"], "video.fps=30 is for videos of a text"),
        (["--video", "a.mp4", "refine.start=2"], "refine.start=2 must be noise, or a sigma"),
        (["refine.start=0.8"], "refine is for given clips; name one with --video FILE"),
        (["videos=empty"], r"videos=\S*empty holds no video"),
        (["prompts=t.csv"], r"t.csv, line 2: \S*gone.mp4 does not exist"),
        (["train", "--video", "a.mp4"], "--video is not for train; leave it out"),
        (
            ["--video", "a.mp4", "--video", "long.mp4", "parallel=fsdp", "parallel.devices=2"],
            "parallel.shard=all needs equally many passes for every video",
        ),
    ],
)
def test_what_cannot_be_refined_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "a.mp4")
    write_clip(tmp_path / "short.mp4", frames=4)
    write_clip(tmp_path / "long.mp4", frames=30)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.gif")
    (tmp_path / "t.csv").write_text("video,prompt\ngone.mp4,x\n")
    with pytest.raises(ConfigError, match=sentence):
        arguments = parse(words)
        check(compose("generate", arguments.all_overrides, arguments.prompts)[0].config)
    assert not (tmp_path / "outputs").exists()


def test_a_run_may_have_clips_and_texts(backbone: BackboneSettings, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", width=32, height=64)
    (tmp_path / "t.csv").write_text("id,video,prompt\none,a.mp4,a red circle\ntwo,,a blue square\n")
    table = str(tmp_path / "t.csv")
    config = small_config(backbone, tmp_path, prompt=[], prompts=table)
    assert run(config) == 0
    sizes = [probe(Path(config.run_dir) / "videos" / f"{id}.mp4") for id in ("one", "two")]
    assert [(size.width, size.height) for size in sizes] == [(64, 128), (SIZE.width, SIZE.height)]
    assert set(record(config, "two")["keys"]) == {"text", "anchor", "detail"}


def test_a_plan_of_a_clip_has_no_anchor_stage_and_counts_every_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for frames in (17, 50):
        clip = write_clip(tmp_path / f"{frames}.mp4", frames=frames)
        words = ["plan", "backbone=tiny", "resolution=demo", "format=json", "--video", str(clip)]
        assert main(words) == 0
        found.append(json.loads(capsys.readouterr().out))
    for plan in found:
        assert [stage["name"] for stage in plan["stages"]] == ["text", "encode", "detail", "decode"]
        assert list(plan["schedules"]) == ["detail"]
    short, long = ({s["name"]: s for s in plan["stages"]} for plan in found)
    assert found[1]["clip"]["frames"] == 53
    assert long["detail"]["tokens"] == short["detail"]["tokens"]
    assert 3.9 < long["detail"]["tflop"] / short["detail"]["tflop"] < 4.6  # features of each window
    assert long["encode"]["tflop"] > 2.5 * short["encode"]["tflop"]
    assert long["detail"]["peak_gb"] < 1.3 * short["detail"]["peak_gb"]


def test_a_comparison_has_the_enlarged_clips_as_arms(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "a.mp4", frames=17)
    config = refining(backbone, tmp_path, clip, resolution=replace(SIZE, frames=17))
    assert run(config) == 0
    out = tmp_path / "out"
    words = [f"out={out}", "baseline=bicubic", "arms=[lanczos]", "tracker=none"]
    report = pw.compare([config.run_dir], words)
    rows = {row.variant.name: row for row in report.comparison.rows}
    assert set(rows) == {"run", "bicubic", "lanczos"} and report.comparison.baseline == "bicubic"
    for row in rows.values():
        assert {"high-frequency", "flicker", "hd-mse"} <= set(row.scores)
    assert rows["bicubic"].scores["nfe"].value == 0 < rows["run"].scores["nfe"].value
    assert rows["bicubic"].differences["high-frequency"].sign == "equal"
    (video,) = (out / "enlarged" / "lanczos" / "videos").glob("*.mp4")
    info = probe(video, count=True)
    assert (info.width, info.height, info.frames, info.fps) == (128, 64, 17, 12.0)
    page = (out / "report" / "index.html").read_text()
    assert '"titles": ["a.mp4"], "fps": 12.0, "frames": 17, "size": [128, 64]' in page
    before = video.stat().st_mtime_ns
    pw.compare([config.run_dir], words)
    assert video.stat().st_mtime_ns == before
    clip.unlink()
    with pytest.raises(ConfigError, match="a.mp4: .* does not exist"):
        pw.compare([config.run_dir], words)


def test_high_frequencies_are_what_a_smaller_frame_cannot_hold() -> None:
    draw = torch.Generator().manual_seed(0)
    noise = (torch.randn(96, 150, 1, generator=draw) * 20 + 128).round().clamp(0, 255)
    noisy = noise.to(torch.uint8).expand(-1, -1, 3)
    assert abs(high_frequency(noisy) - 20 * 0.75**0.5) < 1
    small = noise[::2, ::2].permute(2, 0, 1)[None]
    large = torch.nn.functional.interpolate(small, (96, 150), mode="bicubic")[0].permute(1, 2, 0)
    enlarged = large.round().clamp(0, 255).to(torch.uint8).expand(-1, -1, 3)
    assert high_frequency(enlarged) < 0.6 * high_frequency(noisy)
    ramp = torch.arange(96)[:, None, None].expand(96, 150, 3).to(torch.uint8)
    assert high_frequency(ramp) < 0.05


def test_a_refined_clip_agrees_with_its_source_as_it_is_told(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    plain = refining(backbone, tmp_path, clip)
    shown = to_video(np.stack(list(read_frames(clip))))[0].transpose(0, 1)
    far, keys = {}, []
    for agree in ("none", "colour", "clip"):
        folder = tmp_path / agree
        config = replace(plain, run_dir=str(folder), refine=RefineSettings(agree=agree))
        assert run(config) == 0
        made = to_video(np.stack(list(read_frames(folder / "videos" / "a.mp4"))))[0].transpose(0, 1)
        change = F.interpolate(made, (32, 64), mode="area") - shown
        slow = F.avg_pool2d(change, 16)
        far[agree] = [float(127.5 * x.abs().mean()) for x in (change, slow)]
        keys.append((record(config, "a")["key"], record(config, "a")["keys"]["detail"]))
    assert far["clip"][0] < 4 < far["colour"][0] / 2 and far["colour"][1] < far["none"][1] / 2
    assert len(set(keys)) == 3 and len({detail for _, detail in keys}) == 1


def test_soft_and_noisy_clips_are_told_from_sharp_ones() -> None:
    real = to_video(shapes.render(shapes.scene(0, "heldout"), 512, 320, 3))
    sharp = resized(real, (160, 256), "area")
    enlarged = resized(resized(sharp, (80, 128), "area"), (160, 256), "bicubic")
    noisy = sharp + 0.15 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    kinds = (sharp, blur(sharp, 7, 1.0), enlarged, noisy)
    found = [sharpness(to_pixels(video[0]).numpy()) for video in kinds]
    assert SHARP[0] < found[0] < SHARP[1] < found[3]
    assert max(found[1:3]) < SHARP[0]
    assert sharpness(np.full((2, 32, 64, 3), 90, np.uint8)) == 0


def test_by_default_a_sharp_clip_is_kept_and_of_a_soft_one_only_the_colours(
    backbone: BackboneSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sharp = write_clip(tmp_path / "sharp.mp4")
    frames = to_video(np.stack(list(read_frames(sharp))))
    with VideoWriter(tmp_path / "soft.mp4", 64, 32, VideoSettings(crf=1)) as writer:
        writer.write(to_pixels(blur(frames, 9, 1.5)[0]).numpy())
    config = refining(backbone, tmp_path, sharp, tmp_path / "soft.mp4")
    assert run(config) == 0
    said = capfd.readouterr().err
    for id, agree in (("sharp", "clip"), ("soft", "colour")):
        decode = record(config, id)["stages"]["decode"]
        assert decode["agree"] == agree and (decode["sharpness"] >= SHARP[0]) is (id == "sharp")
        assert f"{id}.mp4 has a sharpness of {decode['sharpness']:.2f}" in said
        assert f"refine.agree={agree}\n" in said
        told = replace(config, run_dir=str(tmp_path / id), refine=RefineSettings(agree=agree))
        assert run(told) == 0
        made = [Path(c.run_dir) / "videos" / f"{id}.mp4" for c in (config, told)]
        assert np.array_equal(*(np.stack(list(read_frames(video))) for video in made))
    large = source_of("video", write_clip(tmp_path / "large.mp4", width=128, height=64), "")
    assert agreement_of(large, SIZE.geometry)[0] == "colour"
    assert agreement_of(large, Geometry(256, 128, 9))[0] == "clip"


def test_a_clip_as_large_as_its_video_cannot_be_all_of_it(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", width=512, height=320)
    words = parse(["--video", str(clip), "refine.agree=clip"])
    config = compose("generate", words.all_overrides, words.prompts)[0].config
    with pytest.raises(ConfigError, match="would only copy a.mp4: the clip has 512x320"):
        check(config)


def test_the_plots_of_a_page_have_a_place_for_what_costs_nothing() -> None:
    """plot.js in Node, with a stand-in for the document."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    script = (files("pixelwizard") / "assets" / "report" / "plot.js").read_text("utf-8")
    made = """
    const made = () => ({ setAttribute() {}, append(...x) { seen.push(...x); }, prepend() {} });
    const seen = [], document = { createElementNS: made };
    const score = (value) => ({ value, low: value, high: value, higher_is_better: true });
    const arms = [0, 4].map((nfe) => ({ name: `${nfe}`, scores: { nfe: score(nfe), q: score(nfe) },
                                        dominated: {} }));
    plot({ arms, quality: "q", colours: ["#000"] }, "nfe");
    console.log(seen.filter((x) => typeof x === "string").join(" "));
    """
    said = subprocess.run([node, "-e", script + made], capture_output=True, text=True, check=True)
    assert {"0", "4"} <= set(said.stdout.split())


def test_clips_alone_leave_the_anchors_sampler_unused_which_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "a.mp4")
    for words, said in (
        (["--video", str(clip), "anchor.steps=9"], "anchor.* is not used"),
        (["--prompt", "a red circle moves left", "anchor.steps=9"], ""),
    ):
        arguments = parse(words)
        check(compose("generate", arguments.all_overrides, arguments.prompts)[0].config)
        error = capsys.readouterr().err
        assert said in error and bool(error) is bool(said)
