"""The settings of sizes: pixels and frames of both stages. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pixelwizard.config.geometry import MOST_SQUEEZED, Geometry, alike, on_grid, squeezed
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting

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
        self._check_shape(key)

    def _check_shape(self, key: str) -> None:
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
