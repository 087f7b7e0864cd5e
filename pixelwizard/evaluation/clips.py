"""Video files as metrics see them: path, size, frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pixelwizard.io.reading import probe
from pixelwizard.io.video import VideoError


@dataclass(frozen=True)
class Clip:
    """A video file that can be read: its size in pixels and its number of frames."""

    path: Path
    width: int
    height: int
    frames: int
    id: str
    """The name that captions and references know it by."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


def inspect(path: Path, least: int = 0, id: str = "") -> Clip:
    """Size and number of frames of a video, which has the name of its file unless ``id`` is given.

    Raises VideoError if it is none or has too few frames.
    """
    info = probe(path, count=True)
    if info.frames < least:
        raise VideoError(f"it has {info.frames} frames, and at least {least} are needed")
    return Clip(path, info.width, info.height, info.frames, id or path.stem)
