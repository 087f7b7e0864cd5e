"""The settings of the scores, for the videos of a run and for those of a folder. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pixelwizard.config.schema import ConfigError, show

SCORED_FRAMES = 16
"""What the video networks look at; shorter clips are not scored."""


@dataclass(frozen=True)
class MetricsSettings:
    """By which networks videos are scored, by name; those not in the package lie in ``folder``.

    ``None`` leaves out what that network sees. ``auto`` takes the networks in the package for
    videos that ``backbone=tiny`` made, for others I3D and, once it was fetched, CLIP ViT-L/14.
    ``lpips`` adds HD-LPIPS, which needs the extra of that name.
    """

    enabled: bool = True
    video: Optional[str] = "auto"
    clip: Optional[str] = "auto"
    folder: str = "checkpoints/metrics"
    lpips: bool = False

    @property
    def asked(self) -> str:
        """The first setting that asks for more than the default, as written; empty if none."""
        own = {"video": "auto", "clip": "auto", "lpips": False}
        asked = (f"metrics.{n}={show(getattr(self, n))}" for n in own if getattr(self, n) != own[n])
        return next(asked, "")


def check_metrics(metrics: MetricsSettings, reference: Optional[str], frames: int) -> None:
    """No wish for scores beside ``metrics=none``, none for those of clips that are too short."""
    asked = metrics.asked if reference is None else f"reference={reference}"
    if asked and not metrics.enabled:
        raise ConfigError(f"{asked} asks for scores, and metrics=none for no scores; leave one out")
    if asked and frames < SCORED_FRAMES:
        raise ConfigError(
            f"{asked} asks for scores, and videos of resolution.frames={frames} are too short for"
            f" them; nearest: {SCORED_FRAMES + 1}"
        )
