"""The judge on real clips, where it must say what the caption says, and on clips to refuse."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pixelwizard.data.shapes import Scene, caption, render, scene, scene_for
from pixelwizard.evaluation.judge import Verdict, judge, score
from pixelwizard.io.reading import read_frames

SCENES = [scene(31 * seed, split) for seed in range(15) for split in ("train", "heldout")]


def clip(drawn: Scene) -> np.ndarray:
    return render(drawn, 256, 160, 17)


def test_real_clips_score_at_least_97_percent_everywhere() -> None:
    shares = score((clip(drawn) for drawn in SCENES), [caption(drawn) for drawn in SCENES])
    assert set(shares) == {"colour", "shape", "motion", "background", "all"}
    assert min(shares.values()) >= 0.97


def test_clips_of_half_the_resolution_score_as_well() -> None:
    """Each 2x2 block flattened: what an upsampling without any new detail shows."""
    halves = [render(drawn, 128, 80, 17).repeat(2, 1).repeat(2, 2) for drawn in SCENES[:12]]
    assert score(halves, [caption(drawn) for drawn in SCENES[:12]])["all"] >= 0.97


def test_foreign_captions_score_low() -> None:
    texts = [caption(drawn) for drawn in SCENES[:12]]
    assert score([clip(drawn) for drawn in SCENES[:12]], texts[5:] + texts[:5])["all"] == 0.0


def test_the_verdict_survives_a_compressed_video_file(tmp_path: Path) -> None:
    drawn = scene_for("a cyan cross shrinks over a purple background", 4)
    path = tmp_path / "clip.mp4"
    writer = imageio_ffmpeg.write_frames(
        str(path), (256, 160), fps=24, codec="libx264", output_params=["-crf", "32"]
    )
    writer.send(None)
    for frame in clip(drawn):
        writer.send(frame)
    writer.close()
    shown = np.stack(list(read_frames(path)))
    assert shown.shape == (17, 160, 256, 3)
    assert judge(shown) == Verdict("cyan", "cross", "shrinks", "purple")


def test_an_empty_clip_has_a_background_and_nothing_else() -> None:
    empty = np.full((5, 40, 64, 3), (24, 36, 98), np.uint8)
    assert judge(empty) == Verdict(None, None, None, "navy")


def test_a_still_object_has_no_motion() -> None:
    first = clip(scene_for("a green triangle moves up over a black background", 2))[:1]
    assert judge(first.repeat(17, axis=0)) == Verdict("green", "triangle", None, "black")


def test_scattered_patches_are_no_shape() -> None:
    patches = np.random.default_rng(0).random((1, 10, 16, 1)) < 0.12
    colours = np.where(patches, (232, 36, 44), (124, 124, 128)).astype(np.uint8)
    verdict = judge(colours.repeat(5, 0).repeat(8, 1).repeat(8, 2))
    assert verdict == Verdict("red", None, None, "gray")


def test_as_many_captions_as_clips_are_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        score([clip(SCENES[0])], [])
