"""The processor time of a codec: seconds of one core for a million pixels of a moving picture.

Waves, a texture of four pixels and faint noise move over 2560x1440, so that neither prediction nor
noise alone decides. ``python measure/writing.py``
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np

from pixelwizard.config.output import VideoSettings
from pixelwizard.io.video import VideoWriter

WIDTH, HEIGHT, FRAMES = 2560, 1440, 9


def main() -> None:
    """Print a line for each codec that needs no GPU."""
    frames = moving()
    for codec in ("h264", "h265", "av1", "prores", "ffv1"):
        before = cpu_seconds()
        settings = VideoSettings(codec=codec)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"video{settings.suffix}"
            with VideoWriter(path, WIDTH, HEIGHT, settings) as writer:
                writer.write(frames)
        print(codec, round((cpu_seconds() - before) / (frames.size / 3e6), 3))


def moving() -> np.ndarray:
    """[T, H, W, 3] uint8."""
    rng, frames = np.random.default_rng(0), []
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    texture = rng.normal(0, 6, (HEIGHT // 4, WIDTH // 4, 3)).repeat(4, 0).repeat(4, 1)
    for t in range(FRAMES):
        waves = [
            60 * np.sin((x + 6 * t) / 97 + c) + 40 * np.sin((y - 4 * t) / 41 + 2 * c)
            for c in range(3)
        ]
        noise = rng.normal(0, 1, (HEIGHT, WIDTH, 1))
        frame = 128 + np.stack(waves, -1) + np.roll(texture, (3 * t, 5 * t), (0, 1)) + noise
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    return np.stack(frames)


def cpu_seconds() -> float:
    """Of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
