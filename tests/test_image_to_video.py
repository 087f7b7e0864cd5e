"""Image to video: the picture and its size, sampling that begins with it, runs, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_golden import TOLERANCE, GoldenDiT, relative_error
from torch import Tensor

from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import picture_size
from pixelwizard.diffusion.sampling import SolverState
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.io.image import ImageError, cover, image_size, read_image
from pixelwizard.stages.latents import Anchor


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
    for path, words in (
        (text, "is not a picture"),
        (cut, "cannot be read"),
        (tmp_path / "d.png", "does not exist"),
    ):
        with pytest.raises(ImageError, match=words) as error:
            read_image(path)
        assert path.name in str(error.value) and "\n" not in str(error.value)
