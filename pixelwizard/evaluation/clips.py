"""Written videos as metrics know them: the file, its size, its frames."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pixelwizard.evaluation.ffmpeg import described
from pixelwizard.io.video import VideoError, probe


@dataclass(frozen=True)
class Clip:
    """A video file that can be read: its size in pixels and its number of frames."""

    path: Path
    width: int
    height: int
    frames: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    @property
    def id(self) -> str:
        """The name that captions and references know it by."""
        return self.path.stem


def inspect(path: Path, least: int = 0) -> Clip:
    """Size and number of frames of a video. Raises VideoError if it is none or has too few."""
    info = probe(path)
    said = described(
        ["-i", str(path), "-map", "0:v:0", "-c", "copy", "-f", "null", "-"],
        f"{path.name} cannot be read",
    )
    counts = re.findall(r"frame=\s*(\d+)", said)
    frames = int(counts[-1]) if counts else 0
    if frames < least:
        raise VideoError(f"it has {frames} frames, and at least {least} are needed")
    return Clip(path, info.width, info.height, frames)
