"""Pixel size, latent grid and token grid: the only place that knows the strides of the backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Optional

from pixelwizard.config.schema import ConfigError, setting

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 16
PATCH = 2
PIXELS_PER_TOKEN = SPATIAL_STRIDE * PATCH
MOST_SQUEEZED = 1.1
"""The factor between two aspect ratios that still count as one shape."""
NEARLY = 1.02
"""The factor up to which a given frame is cut to the shape of the run: 16:9 to 3840x2144."""


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


def on_grid(side: float) -> int:
    """The multiple of 32 nearest to a side, at least 32."""
    return max(1, round(side / PIXELS_PER_TOKEN)) * PIXELS_PER_TOKEN


def squeezed(size: tuple[int, int], other: tuple[int, int]) -> float:
    """The factor between the aspect ratios of two sizes, at least 1."""
    ratio = size[0] * other[1] / (size[1] * other[0])
    return max(ratio, 1 / ratio)


def alike(width: int, height: int, pixels: int, shape: int = 1) -> tuple[int, int]:
    """The size on the grid of about ``pixels`` in the shape of ``width`` x ``height``, no larger.

    The aspect ratios differ by at most ``MOST_SQUEEZED``, if need be at more pixels. ``shape``: how
    much more the shape counts than the number of pixels.
    """
    highest = int(min(height, 2 * math.sqrt(pixels * height / width)))
    sizes = (
        (min(width, max(PIXELS_PER_TOKEN, side)), rows)
        for rows in range(PIXELS_PER_TOKEN, highest + 1, PIXELS_PER_TOKEN)
        for side in nearest_sizes(rows * width // height)
    )

    def misfit(size: tuple[int, int]) -> float:
        amount = size[0] * size[1] / pixels
        return squeezed(size, (width, height)) ** shape * max(amount, 1 / amount)

    fitting = (size for size in sizes if squeezed(size, (width, height)) <= MOST_SQUEEZED)
    return min(fitting, key=misfit, default=(width, height))


def picture_size(width: int, height: int, area: int) -> tuple[int, int]:
    """Wan2.2's size of a video that begins with a picture: its ratio, at most ``area`` pixels.

    One side of the exact size is cut down to the grid of 32 and the other one follows; of the two
    ways the nearer to the picture's ratio counts (``wan/utils/utils.py`` ``best_output_size``).
    Raises ConfigError where neither leaves a side.
    """
    ratio, grid = width / height, PIXELS_PER_TOKEN
    exact = math.sqrt(area * ratio)
    wide = int(exact // grid * grid)
    by_width = wide, int(area / max(wide, 1) // grid * grid)
    high = int(area / exact // grid * grid)
    by_height = int(area / max(high, 1) // grid * grid), high
    fitting = [size for size in (by_height, by_width) if min(size) > 0 and max(size) <= WIDEST]
    if not fitting:
        raise ConfigError(
            f"a picture of {width}x{height} has too extreme an aspect ratio for a video of {area}"
            " pixels; crop it first"
        )
    return min(fitting, key=lambda size: squeezed(size, (width, height)))


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
    """The most tiles along latent rows or columns of which no three overlap."""
    return max(1, cells // (2 * max(1, overlap)))


def cuts(cells: int, parts: int) -> list[int]:
    """Where ``cells`` rows or columns are cut into nearly equal parts: ``parts + 1`` places."""
    return [round(index * cells / parts) for index in range(parts + 1)]


def part_sizes(cells: int, parts: int) -> list[int]:
    """How many cells each of these parts has."""
    return [stop - start for start, stop in pairwise(cuts(cells, parts))]


def overlap_of(window: int) -> int:
    """How many frames neighbouring windows share: a third, rounded up."""
    return math.ceil(window / 3)


def windows_of(frames: int, window: int) -> list[slice]:
    """Latent ``frames`` in equal windows of time; neighbours share at least ``overlap_of`` one.

    One window if they fit.
    """
    if frames <= window:
        return [slice(0, frames)]
    most = max(1, window - overlap_of(window))
    count = math.ceil((frames - window) / most) + 1
    starts = [round(index * (frames - window) / (count - 1)) for index in range(count)]
    return [slice(start, start + window) for start in starts]


ANCHOR_PIXELS = 448 * 256
"""Pixels of an anchor's frame, unless half the video's sides are fewer: PixelWizard's 2K and 4K."""
WIDEST, LONGEST = 16384, 5001
"""The largest side in pixels and number of frames, which are still planned within seconds."""


@dataclass(frozen=True)
class ResolutionSettings:
    """Sizes in pixels and frames, and the shift of both stages.

    An anchor without a size (``None``) has the video's aspect ratio and about half its sides, or
    ``ANCHOR_PIXELS`` if those are fewer; where one side is given, the other follows.
    """

    width: int = setting(512, high=WIDEST, of_latents=True)
    height: int = setting(320, high=WIDEST, of_latents=True)
    frames: int = setting(17, high=LONGEST, of_latents=True)
    anchor_width: Optional[int] = setting(None, high=WIDEST, of_latents=True)
    anchor_height: Optional[int] = setting(None, high=WIDEST, of_latents=True)
    anchor_shift: float = setting(5.0, low=0.01)
    shift: float = setting(5.5, low=0.01)

    def __post_init__(self) -> None:
        """Compute the anchor's size if not given, unless ``check`` refuses anyway."""
        video, anchor = (self.width, self.height), [self.anchor_width, self.anchor_height]
        if None not in anchor or max(video) > WIDEST or video != tuple(map(on_grid, video)):
            return
        if anchor == [None, None]:
            anchor = [*alike(*video, min(ANCHOR_PIXELS, self.width * self.height // 4))]
        elif anchor[0] is None:
            anchor[0] = on_grid((self.anchor_height or 0) * self.width / self.height)
        else:
            anchor[1] = on_grid(anchor[0] * self.height / self.width)
        object.__setattr__(self, "anchor_width", anchor[0])
        object.__setattr__(self, "anchor_height", anchor[1])

    @property
    def geometry(self) -> Geometry:
        """The grid of the finished video."""
        return Geometry(self.width, self.height, self.frames)

    @property
    def anchor_geometry(self) -> Geometry:
        """The grid of the anchor."""
        return Geometry(self.anchor_width or 0, self.anchor_height or 0, self.frames)

    def shaped(self, width: int, height: int) -> ResolutionSettings:
        """About the same numbers of pixels in the shape of another frame; itself if it has that.

        Raises ConfigError for a frame that is too wide or too high.
        """
        if squeezed((width, height), (self.width, self.height)) <= NEARLY:
            return self
        grow = 2 * math.sqrt(self.width * self.height / (width * height))
        most = on_grid(grow * width), on_grid(grow * height)
        wide, high = alike(*most, self.width * self.height, shape=2)
        if max(wide, high) > WIDEST:
            raise ConfigError(
                f"a frame of {width}x{height} has too extreme an aspect ratio: {wide}x{high} would"
                f" be wider or higher than {WIDEST}; crop it first"
            )
        return self._sized(wide, high)

    def begun_with(self, width: int, height: int) -> ResolutionSettings:
        """The sizes of a video that begins with a picture; itself if it has nearly that shape.

        Raises ConfigError for a picture that is too wide or too high.
        """
        if squeezed((width, height), (self.width, self.height)) <= NEARLY:
            return self
        return self._sized(*picture_size(width, height, self.width * self.height))

    def _sized(self, width: int, height: int) -> ResolutionSettings:
        """Another size of the video, with an anchor of its shape and about as many pixels."""
        small = alike(width, height, self.anchor_geometry.width * self.anchor_geometry.height)
        return replace(
            self, width=width, height=height, anchor_width=small[0], anchor_height=small[1]
        )

    def check(self, key: str) -> None:
        """Sizes on the backbone's grid, an anchor no larger than the video and of its ratio."""
        for prefix, name in (("", "geometry"), ("anchor_", "anchor_geometry")):
            try:
                getattr(self, name)
            except ValueError as error:
                shared = "" if str(error).startswith("frames") else prefix
                raise ConfigError(f"{key}.{shared}{error}") from None
        for side in ("width", "height"):
            small, large = getattr(self, f"anchor_{side}"), getattr(self, side)
            if small > large:
                raise ConfigError(
                    f"{key}.anchor_{side}={small} is larger than {key}.{side}={large};"
                    f" nearest: {large}"
                )
        video, anchor = self.geometry, self.anchor_geometry
        factor = squeezed((anchor.width, anchor.height), (video.width, video.height))
        if factor > MOST_SQUEEZED:
            fit = alike(video.width, video.height, anchor.width * anchor.height)
            raise ConfigError(
                f"{key}.anchor_width={anchor.width} {key}.anchor_height={anchor.height} has"
                f" another shape than {video.width}x{video.height} (by {factor - 1:.0%}, at most"
                f" {MOST_SQUEEZED - 1:.0%}); leave both out, or nearest:"
                f" {key}.anchor_width={fit[0]} {key}.anchor_height={fit[1]}"
            )
