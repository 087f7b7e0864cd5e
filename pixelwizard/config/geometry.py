"""Pixel size, latent grid and token grid: the only place that knows the strides of the backbone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 16
PATCH = 2
PIXELS_PER_TOKEN = SPATIAL_STRIDE * PATCH


@dataclass(frozen=True)
class Geometry:
    """A video size in pixels and frames; sizes are multiples of 32, frames are 4n + 1."""

    width: int
    height: int
    frames: int

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < PIXELS_PER_TOKEN or value % PIXELS_PER_TOKEN:
                low, high = nearest_sizes(value)
                raise ValueError(
                    f"{name}={value} is not a multiple of {PIXELS_PER_TOKEN};"
                    f" nearest: {low} or {high}"
                )
        if self.frames < 1 or (self.frames - 1) % TEMPORAL_STRIDE:
            low, high = nearest_frames(self.frames)
            raise ValueError(f"frames={self.frames} is not 4n+1; nearest: {low} or {high}")

    @property
    def latent_grid(self) -> tuple[int, int, int]:
        """(frames, height, width) of the latent."""
        return (
            (self.frames - 1) // TEMPORAL_STRIDE + 1,
            self.height // SPATIAL_STRIDE,
            self.width // SPATIAL_STRIDE,
        )

    @property
    def token_grid(self) -> tuple[int, int, int]:
        """(frames, height, width) of the transformer's tokens."""
        frames, height, width = self.latent_grid
        return frames, height // PATCH, width // PATCH

    @property
    def tokens(self) -> int:
        """Number of tokens of one clip."""
        frames, height, width = self.token_grid
        return frames * height * width

    @property
    def clip_bytes(self) -> int:
        """Bytes of one clip in RGB, 8 bits per colour."""
        return 3 * self.frames * self.height * self.width


def nearest_sizes(value: int) -> tuple[int, int]:
    """The multiples of 32 around ``value``, at least 32."""
    low = max(PIXELS_PER_TOKEN, value // PIXELS_PER_TOKEN * PIXELS_PER_TOKEN)
    return low, low + PIXELS_PER_TOKEN


def nearest_frames(value: int) -> tuple[int, int]:
    """The frame counts 4n + 1 around ``value``, at least 1."""
    low = max(1, (value - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
    return low, low + TEMPORAL_STRIDE


@dataclass(frozen=True)
class Tiles:
    """A grid of decode tiles; each sees ``overlap`` latent rows and columns of its neighbours."""

    rows: int = 1
    columns: int = 1
    overlap: int = 3

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return self.rows * self.columns

    def within(self, height: int, width: int) -> Tiles:
        """The same, but no more than a smaller latent has room for."""
        rows = min(self.rows, most_tiles(height, self.overlap))
        return Tiles(rows, min(self.columns, most_tiles(width, self.overlap)), self.overlap)


WHOLE = Tiles()
"""One tile: frames are decoded whole, exactly."""


def most_tiles(cells: int, overlap: int) -> int:
    """Into how many tiles latent rows or columns can be cut so that no three of them overlap."""
    return max(1, cells // (2 * max(1, overlap)))


def cuts(cells: int, parts: int) -> list[int]:
    """Where ``cells`` rows or columns are cut into nearly equal parts: ``parts + 1`` places."""
    return [round(index * cells / parts) for index in range(parts + 1)]


def part_sizes(cells: int, parts: int) -> list[int]:
    """How many cells each of these parts has."""
    return [stop - start for start, stop in pairwise(cuts(cells, parts))]
