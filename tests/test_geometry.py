"""Pixel sizes, latent grids and token counts."""

from __future__ import annotations

import pytest

from pixelwizard.config.geometry import MOST_SQUEEZED, Geometry, ResolutionSettings, squeezed


@pytest.mark.parametrize(
    ("width", "height", "frames", "latent", "tokens"),
    [
        (448, 256, 121, (31, 16, 28), 3_472),
        (1280, 704, 121, (31, 44, 80), 27_280),
        (2560, 1440, 121, (31, 90, 160), 111_600),
        (3840, 2144, 121, (31, 134, 240), 249_240),
        (256, 160, 17, (5, 10, 16), 200),
        (32, 32, 1, (1, 2, 2), 1),
    ],
)
def test_published_sizes_have_their_token_counts(
    width: int, height: int, frames: int, latent: tuple[int, int, int], tokens: int
) -> None:
    geometry = Geometry(width, height, frames)
    assert geometry.latent_grid == latent
    assert geometry.tokens == tokens


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((2160, 1440, 121), "width=2160 is not a multiple of 32; nearest: 2144 or 2176"),
        ((3840, 2160, 121), "height=2160 is not a multiple of 32; nearest: 2144 or 2176"),
        ((0, 64, 17), "width=0 is not a multiple of 32; nearest: 32 or 64"),
        ((64, -32, 17), "height=-32 is not a multiple of 32; nearest: 32 or 64"),
        ((64, 64, 120), "frames=120 is not 4n+1; nearest: 117 or 121"),
        ((64, 64, 0), "frames=0 is not 4n+1; nearest: 1 or 5"),
    ],
)
def test_sizes_off_the_grid_are_refused_with_their_neighbours(
    size: tuple[int, int, int], sentence: str
) -> None:
    with pytest.raises(ValueError) as error:
        Geometry(*size)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("video", "anchor"),
    [
        *(((w, h), (448, 256)) for w, h in ((2560, 1440), (3840, 2144), (1280, 704), (960, 544))),
        *(((w, h), (256, 448)) for w, h in ((1440, 2560), (2144, 3840), (704, 1280), (544, 960))),
        *[((512, 320), (256, 160)), ((320, 512), (160, 256)), ((128, 64), (64, 32))],
        *[((96, 64), (96, 64)), ((32, 32), (32, 32)), ((640, 640), (320, 320))],
    ],
)
def test_an_anchor_that_is_not_given_has_the_shape_of_the_video(
    video: tuple[int, int], anchor: tuple[int, int]
) -> None:
    size = ResolutionSettings(*video, frames=5)
    assert (size.anchor_width, size.anchor_height) == anchor


def test_of_one_given_side_the_other_follows() -> None:
    assert ResolutionSettings(320, 512, anchor_width=96).anchor_height == 160
    assert ResolutionSettings(512, 320, anchor_height=320).anchor_width == 512


def test_no_video_on_the_grid_squeezes_its_anchor() -> None:
    for width in range(32, 1300, 96):
        for height in range(32, 1300, 64):
            size = ResolutionSettings(width, height, frames=5)
            size.check("resolution")
            low = size.anchor_geometry
            assert squeezed((low.width, low.height), (width, height)) <= MOST_SQUEEZED
