"""The settings of what comes out: how latents become frames, frames a file, and a run a record.

Nothing here imports torch or hydra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

from pixelwizard.config.geometry import Geometry, most_tiles
from pixelwizard.config.schema import ConfigError, check_range, show
from pixelwizard.config.targets import Part, door


@dataclass(frozen=True)
class DecodeSettings:
    """How a latent becomes frames: ``seamless`` (whole frames, exact), ``tiled``, or by memory.

    ``tiles`` are [rows, columns], each sees ``overlap`` latent rows and columns (16 px) of its
    neighbours. ``auto`` is seamless if that fits, else takes the fewest tiles that do.
    ``dtype=None`` is the backbone's.
    """

    mode: Literal["auto", "seamless", "tiled"] = "auto"
    tiles: List[int] = field(default_factory=lambda: [1, 3])
    overlap: int = 3
    dtype: Optional[Literal["float32", "bfloat16"]] = None


@dataclass(frozen=True)
class Codec:
    """What a codec can: bits per colour (its own first), the worst ``crf`` (None: it has none)."""

    bits: tuple[int, ...]
    crf: Optional[int] = None
    suffix: str = ".mp4"


CODECS = {
    "h264": Codec((8, 10), 51),
    "h265": Codec((8, 10), 51),
    "av1": Codec((8, 10), 63),
    "prores": Codec((10,), suffix=".mov"),
    "ffv1": Codec((8,)),
}


@dataclass(frozen=True)
class VideoSettings:
    """How videos are written: ``crf`` is the quality of h264, h265 and av1, 0 the best.

    ``bits=None`` is the codec's own number. ``png`` writes every frame as a picture too.
    """

    fps: int = 24
    codec: Literal["h264", "h265", "av1", "prores", "ffv1"] = "h264"
    crf: int = 12
    bits: Optional[int] = None
    png: bool = False

    @property
    def suffix(self) -> str:
        """How the names of the files end."""
        return CODECS[self.codec].suffix


@dataclass(frozen=True)
class TrackerSettings:
    """What records a run: W&B, CSV files or nothing; and ``logger``, a logger of Lightning's.

    All but ``kind`` and ``logger`` is W&B's. ``mode`` ``auto`` is online where a key is configured,
    else offline; ``artifact`` sends the videos themselves too. What is not given is taken from
    WANDB_PROJECT, WANDB_NAME, WANDB_RUN_GROUP, WANDB_TAGS and WANDB_NOTES.
    """

    kind: Literal["wandb", "csv", "none"] = "wandb"
    logger: Optional[Part] = field(
        default=None, metadata=door("lightning.pytorch.loggers.Logger", offered=("save_dir",))
    )
    project: Optional[str] = None
    name: Optional[str] = None
    group: Optional[str] = None
    tags: List[str] = field(default_factory=list)
    notes: Optional[str] = None
    mode: Literal["auto", "offline", "online"] = "auto"
    artifact: bool = False


def check_decode(decode: DecodeSettings, geometry: Geometry) -> None:
    """Tiles [rows, columns] that are wide enough for their overlaps."""
    _, *grid = geometry.latent_grid
    check_range("decode.overlap", decode.overlap, 1)
    if len(decode.tiles) != 2:
        raise ConfigError(f"decode.tiles={decode.tiles} must be [rows, columns], like [2, 3]")
    if decode.mode != "tiled":
        if decode.tiles != DecodeSettings().tiles:
            raise ConfigError(
                f"decode.tiles={decode.tiles} is for decode.mode=tiled, not {decode.mode}; use"
                " that or leave it out"
            )
        return
    most = [most_tiles(cells, decode.overlap) for cells in grid]
    nearest = [min(max(1, n), top) for n, top in zip(decode.tiles, most, strict=True)]
    if decode.tiles != nearest:
        raise ConfigError(
            f"decode.tiles={decode.tiles} must be between [1, 1] and {most}, as {grid[0]} x"
            f" {grid[1]} latent rows and columns with decode.overlap={decode.overlap} allow;"
            f" nearest: {nearest}"
        )


def check_video(video: VideoSettings) -> None:
    """A frame rate and what the codec can."""
    check_range("video.fps", video.fps, 1, 240)
    codec = CODECS[video.codec]
    check_range("video.crf", video.crf, 0, codec.crf or 63)
    if video.bits is not None and video.bits not in codec.bits:
        able = " or ".join(str(bits) for bits in codec.bits)
        raise ConfigError(
            f"video.bits={video.bits} is not possible with video.codec={video.codec};"
            f" nearest: {able}"
        )


def check_tracker(tracker: TrackerSettings) -> None:
    """Nothing of W&B's beside another kind of tracker."""
    plain = TrackerSettings()
    for name in ("project", "name", "group", "tags", "notes", "mode", "artifact"):
        value = getattr(tracker, name)
        if tracker.kind != "wandb" and value != getattr(plain, name):
            raise ConfigError(f"tracker.{name}={show(value)} is for tracker=wandb; leave it out")
