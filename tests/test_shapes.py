"""The procedural clips: the grammar, its split, the geometry of a scene and its pixels."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from pixelwizard.data.shapes import (
    BACKGROUNDS,
    COLOURS,
    MARGIN,
    MOTIONS,
    SHAPES,
    WORDS,
    caption,
    placement,
    prompts,
    render,
    scene,
    scene_for,
)

ANCHOR = (256, 160, 17)


def fields(split: str) -> list[tuple[str, str, str, str]]:
    size = {"train": 720, "heldout": 144}[split]
    scenes = [scene(seed, split) for seed in range(size)]
    return [(s.colour, s.shape, s.motion, s.background) for s in scenes]


def test_the_splits_share_no_caption_and_cover_the_whole_grammar() -> None:
    train, held_out = prompts("train", 720), prompts("heldout", 144)
    assert not set(train) & set(held_out)
    assert len({*train, *held_out}) == len(COLOURS) * len(SHAPES) * len(MOTIONS) * len(BACKGROUNDS)


def test_every_pair_of_words_is_held_out_in_exactly_one_sixth_of_its_combinations() -> None:
    train, held_out = fields("train"), fields("heldout")
    for first, second in combinations(range(4), 2):
        seen = Counter((item[first], item[second]) for item in train)
        hidden = Counter((item[first], item[second]) for item in held_out)
        assert set(seen) == set(hidden)
        assert all(seen[pair] == 5 * hidden[pair] for pair in seen)


def test_object_words_and_background_words_are_disjoint_and_colours_lie_far_apart() -> None:
    assert not set(COLOURS) & set(BACKGROUNDS)
    palette = [*COLOURS.values(), *BACKGROUNDS.values()]
    gaps = [np.linalg.norm(np.subtract(a, b)) for a, b in combinations(palette, 2)]
    assert min(gaps) > 70
    contrasts = [
        np.linalg.norm(np.subtract(a, b)) for a in COLOURS.values() for b in BACKGROUNDS.values()
    ]
    assert min(contrasts) > 110


def test_a_caption_uses_only_known_words_and_leads_back_to_its_scene() -> None:
    for seed in range(40):
        drawn = scene(seed, "heldout")
        text = caption(drawn)
        assert set(text.split()) <= set(WORDS)
        assert text in prompts("heldout", 144)
        assert scene_for(text, seed) == drawn


def test_prompts_differ_by_seed_and_repeat_for_the_same_seed() -> None:
    assert prompts("train", 20, seed=1) == prompts("train", 20, seed=1)
    assert prompts("train", 20, seed=1) != prompts("train", 20, seed=2)
    assert len(set(prompts("train", 20, seed=1))) == 20


@pytest.mark.parametrize("aspect", [1.0, 1.6, 16 / 9])
def test_objects_are_big_stay_inside_the_frame_and_move_far(aspect: float) -> None:
    for seed in range(0, 720, 7):
        drawn = scene(seed)
        start, end = placement(drawn, aspect, 0.0), placement(drawn, aspect, 1.0)
        assert 0.24 <= max(drawn.radius) <= 0.34
        for x, y, radius in (start, end):
            assert MARGIN <= x - radius + 1e-9 and x + radius <= aspect - MARGIN + 1e-9
            assert MARGIN <= y - radius + 1e-9 and y + radius <= 1 - MARGIN + 1e-9
        across, down = end[0] - start[0], end[1] - start[1]
        growth = end[2] / start[2]
        expected = {
            "moves left": across < -0.12 * aspect,
            "moves right": across > 0.12 * aspect,
            "moves up": down < -0.2,
            "moves down": down > 0.2,
            "grows": growth > 1.69,
            "shrinks": growth < 1 / 1.69,
        }
        assert expected[drawn.motion]
        assert sum(expected.values()) == 1


def test_rendering_is_deterministic_and_seeds_place_the_object_differently() -> None:
    text = "a red circle moves left over a gray background"
    first = render(scene_for(text, 0), *ANCHOR)
    assert first.shape == (17, 160, 256, 3) and first.dtype == np.uint8
    assert np.array_equal(first, render(scene_for(text, 0), *ANCHOR))
    assert not np.array_equal(first, render(scene_for(text, 1), *ANCHOR))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_scene_at_twice_the_size_shows_the_same_picture(shape: str) -> None:
    drawn = scene_for(f"a pink {shape} grows over a navy background", 3)
    small = render(drawn, 256, 160, 5).astype(float)
    large = render(drawn, 512, 320, 5).astype(float)
    averaged = large.reshape(5, 160, 2, 256, 2, 3).mean(axis=(2, 4))
    assert np.abs(averaged - small).mean() < 0.3
    assert np.abs(averaged - small).max() < 45


def test_a_frame_keeps_its_moment_when_the_frame_count_changes() -> None:
    drawn = scene(5)
    assert np.array_equal(render(drawn, 64, 40, 17)[::4], render(drawn, 64, 40, 5))


def test_the_object_has_its_colour_a_darker_outline_and_a_background_gradient() -> None:
    drawn = scene_for("a yellow square grows over a white background", 0)
    frame = render(drawn, 512, 320, 2)[-1].astype(int)
    x, y, radius = (value * 320 for value in placement(drawn, 1.6, 1.0))
    assert tuple(frame[round(y), round(x)]) == COLOURS["yellow"]
    edge = frame[round(y), round(x - 0.88 * radius) + 2]
    assert np.allclose(edge, np.array(COLOURS["yellow"]) / 2, atol=2)
    assert frame[0, 0, 0] - frame[-1, 0, 0] == pytest.approx(0.12 * 232, abs=2)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: scene(0, "test"), "split='test'"),
        (lambda: prompts("heldout", 145), "count=145"),
        (lambda: scene_for("a red dog", 0), "'a red dog'"),
        (lambda: render(scene(0), 64, 160, 17), "width=64"),
        (lambda: render(scene(0), 64, 40, 0), "0 frames"),
    ],
)
def test_a_wrong_argument_is_named_in_the_error(call, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
