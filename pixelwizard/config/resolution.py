"""The settings of sizes: pixels and frames of both stages. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from pixelwizard.config.geometry import Geometry
from pixelwizard.config.schema import ConfigError, check_range


@dataclass(frozen=True)
class ResolutionSettings:
    """Sizes in pixels and frames, and the shift of both stages."""

    width: int = 512
    height: int = 320
    frames: int = 17
    anchor_width: int = 256
    anchor_height: int = 160
    anchor_shift: float = 5.0
    shift: float = 5.5

    @property
    def geometry(self) -> Geometry:
        """The grid of the finished video."""
        return Geometry(self.width, self.height, self.frames)

    @property
    def anchor_geometry(self) -> Geometry:
        """The grid of the anchor."""
        return Geometry(self.anchor_width, self.anchor_height, self.frames)


def check_resolution(size: ResolutionSettings) -> None:
    """Sizes on the backbone's grid, the anchor no larger than the video."""
    for prefix, name in (("", "geometry"), ("anchor_", "anchor_geometry")):
        try:
            getattr(size, name)
        except ValueError as error:
            shared = "" if str(error).startswith("frames") else prefix
            raise ConfigError(f"resolution.{shared}{error}") from None
    for side in ("width", "height"):
        small, large = getattr(size, f"anchor_{side}"), getattr(size, side)
        if small > large:
            raise ConfigError(
                f"resolution.anchor_{side}={small} is larger than resolution.{side}={large};"
                f" nearest: {large}"
            )
    check_range("resolution.shift", size.shift, 0.01)
    check_range("resolution.anchor_shift", size.anchor_shift, 0.01)
