"""The files that prompts start from, found, checked and hashed before any network is loaded.

Imports no torch, and numpy and PyAV only where a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pixelwizard.config.geometry import Geometry, ResolutionSettings, nearest_frames, nearest_sizes
from pixelwizard.config.schema import ConfigError
from pixelwizard.data.table import VIDEOS
from pixelwizard.io.files import file_digest
from pixelwizard.io.video import ImageError, Sound, VideoError

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["video", "image"]
FEWEST = 5
"""Frames of the shortest clip: two frames of a latent."""


@dataclass(frozen=True)
class Source:
    """A picture that a video begins with, or a clip to be refined, as it was found.

    Size as shown, ``frames`` at ``fps`` a second. ``sound`` is the codec of a clip's sound, ""
    without any; the file begins ``delay`` seconds before the first frame.
    """

    kind: Kind
    path: Path
    sha256: str
    width: int
    height: int
    frames: int = 1
    fps: float = 0.0
    sound: str = ""
    delay: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "path": str(self.path)}

    @property
    def track(self) -> Sound | None:
        """The sound of a clip's frames, if it has any."""
        if not self.sound:
            return None
        return Sound(self.path, self.sound, self.delay, self.frames / self.fps)

    def sizes(self, size: ResolutionSettings) -> ResolutionSettings:
        """The sizes of the video that it becomes.

        It has the shape of the source, and of a clip the frames, filled up to 4n+1. Raises
        ConfigError for a shape that is too extreme.
        """
        if self.kind == "image":
            return size.begun_with(self.width, self.height)
        low, high = nearest_frames(self.frames)
        shaped = size.shaped(self.width, self.height)
        return replace(shaped, frames=low if low == self.frames else high)

    def own_size(self, shape: Geometry) -> Geometry:
        """The size in its file of the part of it that a ``shape`` shows; at most the shape's.

        Rounded down to the grid, by which a frame may be squeezed.
        """
        kept = min(self.width / shape.width, self.height / shape.height, 1.0)
        width, height = (nearest_sizes(round(n * kept))[0] for n in (shape.width, shape.height))
        return replace(shape, width=width, height=height)


def source_of(kind: Kind, path: Path, place: str) -> Source:
    """The file as a source. Raises ConfigError, which begins with ``place``, if it cannot be one.

    A file is probed and hashed once in a process, unless it is written anew.
    """
    try:
        state = path.stat()
        if path.is_dir():
            several = "; videos=DIR refines every clip of a folder" if kind == "video" else ""
            raise ConfigError(f"{place}: {path} is a folder; give a file{several}")
        if not path.is_file():
            raise ConfigError(f"{place}: {path} is a pipe or a device; save it as a file first")
        return _found(kind, path.resolve(), state.st_size, state.st_mtime_ns)
    except FileNotFoundError:
        raise ConfigError(f"{place}: {path} does not exist; name a file that does") from None
    except OSError as error:
        raise ConfigError(f"{place}: {path} cannot be read ({error.strerror})") from None
    except ImageError as error:
        clip = "; --video FILE refines a clip" if path.suffix.lower() in VIDEOS else ""
        raise ConfigError(f"{place}: {error}{clip}") from None
    except VideoError as error:
        raise ConfigError(f"{place}: {error}") from None


@cache
def _found(kind: Kind, path: Path, size: int, modified_ns: int) -> Source:
    if kind == "image":
        from pixelwizard.io.image import image_size

        return Source(kind, path, file_digest(path), *image_size(path))
    from pixelwizard.io.reading import probe

    info = probe(path, count=True)
    if info.frames < FEWEST:
        has = f"{info.frames} frames" if info.frames > 1 else "a single frame"
        picture = "" if info.frames > 1 else "; --image FILE begins a video with a picture"
        raise VideoError(
            f"{path.name} has {has}, and at least {FEWEST} are needed to refine it{picture}"
        )
    facts = asdict(info)
    del facts["seconds"]
    return Source(kind, path, file_digest(path), **facts)


def frames_of(
    source: Source, size: Geometry, shape: Geometry, enlarging: str = "bicubic"
) -> Iterator[np.ndarray]:
    """The frames of a source, uint8 [H, W, 3], cut evenly to a ``shape`` and scaled to a ``size``.

    So sizes of slightly different ratios show the same. ``enlarging``, bicubic or lanczos, is the
    filter of those that become larger. A clip's frames follow each other at its average rate, and
    its last one is repeated until there are ``size.frames``. Raises VideoError if the file cannot
    be read to its end, ImageError if a picture is not any more the one that was found.
    """
    if source.kind == "image":
        if file_digest(source.path) != source.sha256:
            raise ImageError(f"{source.path} has changed since the run began; start the run again")
        from pixelwizard.io.image import cover, read_image

        pixels = read_image(source.path)
        yield cover(pixels, (size.width, size.height), (shape.width, shape.height))
        return
    from pixelwizard.io.reading import ENLARGING, covering

    times = [number / source.fps for number in range(min(source.frames, size.frames))]
    shown, cut = (size.width, size.height), (shape.width, shape.height)
    for frame in covering(source.path, shown, cut, times, ENLARGING[enlarging]):
        yield frame
    for _ in range(size.frames - source.frames):
        yield frame
