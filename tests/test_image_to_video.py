"""Image to video: the picture and its size, sampling that begins with it, runs, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small import SIZE, small_config, write_backbone, write_config
from test_golden import TOLERANCE, GoldenDiT, relative_error
from torch import Tensor

from pixelwizard import worker
from pixelwizard.cli.arguments import parse
from pixelwizard.cli.compose import compose
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import GenerateConfig, ImageSettings, SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings, picture_size
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target
from pixelwizard.data.prompts import prompts_of
from pixelwizard.data.source_files import frames_of, source_of
from pixelwizard.diffusion.sampling import SolverState
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.generation import encoding, predict
from pixelwizard.generation.replay import repetition
from pixelwizard.io.image import cover, image_size, read_image
from pixelwizard.io.process import Interrupted
from pixelwizard.io.reading import probe
from pixelwizard.io.video import ImageError
from pixelwizard.models.weights import load_vae
from pixelwizard.stages.latents import Anchor, Detail


@pytest.fixture(scope="module")
def io(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "ti2v_io.safetensors")


def test_sizes_follow_the_official_rule(io: dict[str, Tensor]) -> None:
    area = int(io["resize_max_area"])
    for given, expected in zip(io["resize_input"].tolist(), io["resize_output"], strict=True):
        assert picture_size(*given, area) == tuple(expected.tolist()), given


def test_the_picture_is_the_official_one(io: dict[str, Tensor]) -> None:
    pixels = io["image_pixels"].numpy()
    size = picture_size(pixels.shape[1], pixels.shape[0], int(io["image_max_area"]))
    assert size == tuple(io["image_size"].tolist())
    found = torch.from_numpy(cover(pixels, size, size)).permute(2, 0, 1)[None, :, None]
    assert relative_error(found / 127.5 - 1, io["image"]) < 1e-6


def test_a_picture_of_another_ratio_shows_the_same_at_both_sizes() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (160, 1, 3))
    large = cover(ramp, (640, 480), (640, 480))
    small = cover(ramp, (96, 64), (640, 480))  # a ratio of 1.5 in place of 1.33
    assert small.shape == (64, 96, 3)
    ends = [(int(image[0, 0, 0]), int(image[0, -1, 0])) for image in (large, small)]
    assert np.abs(np.subtract(*ends)).max() <= 3


@torch.no_grad()
@pytest.mark.parametrize("run", ["unipc_4", "unipc_6", "dpmpp_4", "dpmpp_5"])
def test_every_state_is_that_of_the_official_image_to_video(
    golden: Path, io: dict[str, Tensor], run: str
) -> None:
    settings = json.loads((golden / "ti2v.json").read_text())
    solver, steps = run.split("_")
    sampler = SamplerSettings(solver=solver, steps=int(steps), guidance=settings["guidance"])
    schedule = make_schedule(sampler, settings["shift"])
    assert [step.timestep for step in schedule.steps] == io[f"sample_{run}_t"].tolist()
    stage = Anchor(GoldenDiT(golden).base(), schedule, settings["guidance"])
    states: list[SolverState] = []
    inputs = (io["sample_noise"][0], io["sample_context"], io["sample_context_null"])
    first = io["sample_first_frame"][0]
    end = stage(*inputs, on_step=states.append, first_frame=first)
    for state, expected in zip(states, io[f"sample_{run}_states"], strict=True):
        assert relative_error(state.latent, expected) < TOLERANCE
    assert torch.equal(end[:, :1], first)
    resumed = stage(*inputs, state=states[1], first_frame=first)
    assert torch.equal(resumed, end)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_a_photo_is_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    turn = Image.Exif()
    turn[0x0112] = 6  # a quarter turn clockwise
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", exif=turn)
    assert image_size(path) == (20, 40)
    assert read_image(path)[:20].min() == 255 and read_image(path)[20:].max() == 0


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, 3] = 255
    found = read_image(saved(Image.fromarray(pixels), tmp_path / "a.png"))
    assert found[:4].max() == 0 and found[4:].min() == 255


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA", "I;16"])
def test_every_kind_of_pixels_becomes_rgb(tmp_path: Path, mode: str) -> None:
    gray = Image.fromarray(np.full((8, 8), 200, np.uint8))
    suffix = "tiff" if mode == "CMYK" else "png"
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 200 * 257, np.uint16))
    else:
        image = gray.convert(mode)
    found = read_image(saved(image, tmp_path / f"a.{suffix}"))
    assert found.shape == (8, 8, 3)
    assert mode == "1" or np.abs(found.astype(int) - 200).max() <= 1


def test_a_file_that_is_no_picture_is_one_sentence(tmp_path: Path) -> None:
    text, cut = tmp_path / "a.png", tmp_path / "b.png"
    text.write_text("no picture")
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)),
                  tmp_path / "c.png")  # fmt: skip
    cut.write_bytes(whole.read_bytes()[:4000])
    moving = tmp_path / "e.gif"
    frames = [Image.new("L", (8, 8), level) for level in (0, 90, 180)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    for path, words in (
        (moving, "it has 3 frames; give one picture, or refine it as --video"),
        (text, "is a text file, not a picture"),
        (cut, "cannot be read"),
        (tmp_path / "d.png", "does not exist"),
    ):
        with pytest.raises(ImageError, match=words) as error:
            read_image(path)
        assert path.name in str(error.value) and "\n" not in str(error.value)


# Runs.


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def picture(path: Path, width: int = 128, height: int = 64, seed: int = 0) -> Path:
    draw = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return saved(Image.fromarray(draw).resize((width, height)), path)


def beginning(
    backbone: BackboneSettings, folder: Path, *files: Path, **changes: object
) -> GenerateConfig:
    names = [str(file) for file in files]
    given = {"prompt": ["a red circle"], "from_image": names, **changes}
    return small_config(backbone, folder, **given)


def run(config: GenerateConfig) -> int:
    return worker.run(write_config(config))


def record(config: GenerateConfig, id: str) -> dict:
    return json.loads((Path(config.run_dir) / "videos" / f"{id}.json").read_text("utf-8"))


def latents(config: GenerateConfig, kind: str, key: str) -> dict[str, Tensor]:
    return load_file(Path(config.store.dir) / kind / key[:2] / f"{key}.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("detail", [False, True])
def test_a_video_begins_with_the_latent_of_its_picture(
    backbone: BackboneSettings, tmp_path: Path, detail: bool
) -> None:
    file = picture(tmp_path / "my picture.png")
    config = beginning(backbone, tmp_path, file, image=ImageSettings(detail=detail))
    assert run(config) == 0
    made = record(config, "my-picture")
    assert list(made["stages"]) == ["text", "encode", "anchor", "detail", "decode"]
    assert made["source"]["kind"] == "image" and made["source"]["path"] == str(file.resolve())
    vae, pixels = load_vae(backbone), read_image(file)
    for stage, size in (("anchor", (64, 32)), ("detail", (128, 64))):
        shown = torch.from_numpy(cover(pixels, size, (128, 64))).permute(2, 0, 1)[None, :, None]
        own = vae.encode(shown / 127.5 - 1)[0]
        found = latents(config, stage, made["keys"][stage])["latent"]
        pinned = stage == "anchor" or detail
        assert torch.allclose(found[:, :1], own, atol=1e-5) == pinned, stage
    sheet = np.asarray(Image.open(Path(config.run_dir) / "contact_sheet.png"))
    assert (sheet[40:60, 300:] == 255).all() and not (sheet[40:60, 20:200] == 255).all()


def test_a_picture_of_another_shape_gives_a_video_of_its_shape(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    size = ResolutionSettings(width=128, height=96, frames=5)
    config = beginning(backbone, tmp_path, picture(tmp_path / "a.png", 90, 160), resolution=size)
    assert run(config) == 0
    info = probe(Path(config.run_dir) / "videos" / "a.mp4")
    assert (info.width, info.height) == picture_size(90, 160, 128 * 96) == (96, 128)


def test_sizes_by_the_official_rule_unless_the_shape_is_nearly_the_runs() -> None:
    demo, four = ResolutionSettings(512, 320, 17), ResolutionSettings(3840, 2144, 121)
    assert four.begun_with(1920, 1080) is four and demo.begun_with(1600, 1000) is demo
    for width, height in ((1000, 1600), (500, 500), (1920, 1080)):
        sizes = demo.begun_with(width, height)
        sizes.check("resolution")
        assert (sizes.width, sizes.height) == picture_size(width, height, 512 * 320)
    with pytest.raises(ConfigError, match="a picture of 3x9000 has too extreme an aspect ratio"):
        demo.begun_with(3, 9000)


def test_results_go_by_what_the_picture_holds(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = picture(tmp_path / "a.png")
    config = beginning(backbone, tmp_path, file)
    assert run(config) == 0
    moved = file.rename(tmp_path / "b.png")
    with monkeypatch.context() as patch:
        for loop in (encoding.EncodeLoop, predict.AnchorLoop, predict.DetailLoop):
            patch.setattr(loop, "predict_step", None)
        again = beginning(backbone, tmp_path, moved, run_dir=str(tmp_path / "again"))
        assert run(again) == 0
    picture(moved, seed=1)
    other = beginning(backbone, tmp_path, moved, run_dir=str(tmp_path / "other"))
    assert run(other) == 0
    keys = [record(c, id)["keys"] for c, id in ((config, "a"), (again, "b"), (other, "b"))]
    assert keys[0] == keys[1]
    assert keys[0]["anchor"] != keys[2]["anchor"] and keys[0]["text"] == keys[2]["text"]


def test_pinning_the_detail_reuses_the_anchor(backbone: BackboneSettings, tmp_path: Path) -> None:
    config = beginning(backbone, tmp_path, picture(tmp_path / "a.png"))
    pinned = replace(config, image=ImageSettings(detail=True), run_dir=str(tmp_path / "pinned"))
    assert run(config) == 0 and run(pinned) == 0
    before, after = record(config, "a"), record(pinned, "a")
    assert before["keys"]["anchor"] == after["keys"]["anchor"]
    assert before["keys"]["detail"] != after["keys"]["detail"]
    assert after["stages"]["anchor"]["reused"]


def test_an_interrupted_run_ends_in_the_same_bits(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = picture(tmp_path / "a.png")
    whole = beginning(backbone, tmp_path / "whole", file, image=ImageSettings(detail=True))
    broken = beginning(backbone, tmp_path / "broken", file, image=ImageSettings(detail=True))
    assert run(whole) == 0
    keep = predict.DetailLoop.keep

    def stopping(self: predict.DetailLoop, *given: object) -> object:
        on_step = keep(self, *given)

        def stop(state: SolverState) -> None:
            on_step(state)
            raise Interrupted(2)

        return stop

    with monkeypatch.context() as patch:
        patch.setattr(predict.DetailLoop, "keep", stopping)
        assert run(broken) == 130
    assert run(broken) == 0
    key = record(whole, "a")["keys"]["detail"]
    ends = [latents(config, "detail", key)["latent"] for config in (whole, broken)]
    assert torch.equal(*ends)


def test_a_video_of_a_picture_is_made_again(backbone: BackboneSettings, tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png")
    config = beginning(backbone, tmp_path, file, image=ImageSettings(detail=True))
    assert run(config) == 0
    video = Path(config.run_dir) / "videos" / "a.mp4"
    again = repetition(video, str(tmp_path / "again"))
    (prompt,) = prompts_of(again)
    assert prompt.source == source_of("image", file, "") and prompt.text == "a red circle"
    assert again.image.detail
    picture(file, seed=1)
    with pytest.raises(ConfigError, match=r"was made of a\.png with the sha256 .* given=FILE"):
        repetition(video, None)


@torch.no_grad()
@pytest.mark.parametrize(
    ("solver", "skip"),
    [
        ("euler", "none"),
        ("unipc", Target("mask", {"pattern": "110101"})),
        ("dpmpp", "taylor"),
        ("unipc", Target("first_block", {"threshold": 0.3})),
    ],
)
def test_every_solver_and_skip_keeps_the_picture_and_resumes(
    golden: Path, io: dict[str, Tensor], solver: str, skip: object
) -> None:
    dit, draw = GoldenDiT(golden), torch.Generator().manual_seed(0)
    sampler = SamplerSettings(solver=solver, steps=6, step_sizes="raw", skip=skip)
    stage = Detail(dit.detail(), make_schedule(sampler, 5.0), 3.0)
    noise, first = io["sample_noise"][0], io["sample_first_frame"][0]
    anchor = torch.randn(noise.shape, generator=draw)
    states: list[SolverState] = []
    inputs = (noise, anchor, io["sample_context"], io["sample_context_null"])
    end = stage(*inputs, on_step=states.append, first_frame=first)
    assert all(torch.equal(state.latent[0, :, :1], first) for state in states)
    assert torch.equal(stage(*inputs, state=states[2], first_frame=first), end)
    assert not torch.allclose(end[:, 1:], stage(*inputs)[:, 1:], atol=1e-2)


def refusal(backbone: BackboneSettings, folder: Path, **changes: object) -> str:
    config = small_config(backbone, folder, **{"prompt": ["a red circle"], **changes})
    with pytest.raises(ConfigError) as error:
        prompts_of(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_begin_a_video_is_one_sentence(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    text = tmp_path / "a.png"
    text.write_text("no picture")
    file = str(picture(tmp_path / "b.png"))
    said = refusal(backbone, tmp_path, from_image=[str(text)])
    assert said.startswith("--image: ") and "a.png is a text file, not a picture; name a" in said
    text.write_bytes(b"\x89PNG\r\n\x1a\n")
    cut = refusal(backbone, tmp_path, from_image=[str(text)])
    assert "a.png is not a picture that can be read; convert it" in cut
    assert "does not exist" in refusal(backbone, tmp_path, from_image=["none.png"])
    assert "is a folder" in refusal(backbone, tmp_path, from_image=[str(tmp_path)])
    two = refusal(backbone, tmp_path, from_image=[file] * 3, prompt=["a", "b"])
    assert "2 --prompt for 3 images" in two
    assert "image is for given pictures" in refusal(
        backbone, tmp_path, image=ImageSettings(detail=True)
    )
    config = small_config(backbone, tmp_path, prompt=[], from_image=[file], from_video=["c.mp4"])
    with pytest.raises(ConfigError, match="--image and --video exclude each other"):
        config.check()


def test_a_table_names_pictures_and_clips_in_rows_of_their_own(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    picture(tmp_path / "b.png")
    table = tmp_path / "prompts.csv"
    table.write_text("image,prompt\nb.png,a red circle\n,a blue square\nb.png,\n")
    config = small_config(backbone, tmp_path, prompt=[], prompts=str(table))
    first, second, third = prompts_of(config)
    assert first.source == third.source == source_of("image", tmp_path / "b.png", "")
    assert second.source is None and (first.id, third.id) == ("001-a-red-circle", "003-b")
    table.write_text("image,video,prompt\nb.png,c.mp4,a red circle\n")
    said = refusal(backbone, tmp_path, prompt=[], prompts=str(table))
    assert "line 2: video=c.mp4 and image=b.png exclude each other" in said


def test_a_picture_that_changes_during_a_run_is_not_used(tmp_path: Path) -> None:
    source = source_of("image", picture(tmp_path / "a.png"), "")
    picture(tmp_path / "a.png", seed=1)
    with pytest.raises(ImageError, match=r"a\.png has changed since the run began"):
        list(frames_of(source, SIZE.geometry, SIZE.geometry))


def test_the_option_fills_the_setting(tmp_path: Path) -> None:
    file = str(picture(tmp_path / "my, picture.png"))
    arguments = parse(["--image", file, "--prompt", "a red circle"])
    (job,) = compose("generate", arguments.all_overrides, arguments.prompts)
    assert job.config.from_image == [file]
