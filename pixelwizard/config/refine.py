"""The settings of given files: how clips are refined, how pictures begin a video. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pixelwizard.config.schema import ConfigError, setting

NOISE = "noise"


@dataclass(frozen=True)
class RefineSettings:
    """How given clips are refined: a clip at the anchor's size takes the place of the anchor.

    ``start`` is ``noise``, as in the method, or a sigma: the clip is enlarged and encoded at the
    video's size too, gets noise of that level, and goes through what is left of the schedule from
    there. ``anchor_noise`` is the level of gaussian noise on the anchor's latent, of unit variance
    (training: up to 0.1, in half of the samples).
    """

    start: str = NOISE
    anchor_noise: float = setting(0.0, low=0.0, high=1.0)

    @property
    def sigma(self) -> Optional[float]:
        """Where the schedule is entered; None: at its start, from noise alone."""
        return None if self.start == NOISE else float(self.start)

    def check(self, key: str) -> None:
        """``noise`` or a number between 0 and 1; raises ConfigError."""
        try:
            fits = self.sigma is None or 0 < self.sigma < 1
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(
                f"{key}.start={self.start} must be noise, or a sigma between 0 (the clip itself)"
                " and 1, like 0.85"
            )


@dataclass(frozen=True)
class ImageSettings:
    """Where a given picture is the first latent frame: in the anchor, as in Wan2.2.

    ``detail``: in the detail stage too, at the video's size. PixelWizard's detail network was not
    trained so, and gets the anchor in any case.
    """

    detail: bool = False
