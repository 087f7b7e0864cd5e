"""The settings of the scores, for the videos of a run and for those of a folder. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Dict, Optional

from pixelwizard.config.schema import ConfigError, show
from pixelwizard.config.setting import setting
from pixelwizard.config.targets import Part, door

SCORED_FRAMES = 16
"""Frames that the video networks need; shorter clips are not scored."""


@dataclass(frozen=True)
class MetricsSettings:
    """The networks that score videos, by name; those outside the package lie in ``folder``.

    ``None`` leaves out the scores of that network. ``auto`` takes the networks in the package for
    videos that ``backbone=tiny`` made, for others I3D and, once it was fetched, CLIP ViT-L/14.
    ``lpips`` adds HD-LPIPS, which needs the extra of that name; ``extra`` adds metrics by the name
    of their score.
    """

    enabled: bool = True
    video: Optional[str] = "auto"
    clip: Optional[str] = "auto"
    folder: str = setting("checkpoints/metrics", path=True)
    lpips: bool = False
    extra: Dict[str, Part] = field(
        default_factory=dict, metadata=door("torchmetrics.Metric", "pixelwizard.evaluation.metrics")
    )

    @property
    def parts(self) -> Dict[str, Part]:
        """Every metric by the name of its score: those that are always tried, then ``extra``."""
        standard = ["hd_mse", "hd_mse_noise", "flicker", *["hd_lpips"] * self.lpips]
        standard += ["frame_consistency", "clip", "fvd", "hd_fvd", "psnr", "ssim", "vmaf"]
        return {**{name.replace("_", "-"): name for name in standard}, **self.extra}

    @property
    def asked(self) -> str:
        """The first setting that asks for more than the default, as written; empty if none."""
        plain = MetricsSettings(self.enabled, folder=self.folder)
        names = [field.name for field in fields(self)]
        asked = [n for n in names if getattr(self, n) != getattr(plain, n)]
        return f"metrics.{asked[0]}={show(getattr(self, asked[0]))}" if asked else ""

    def check(self, key: str) -> None:
        """Refuse a user's metric with the name of another score; raises ConfigError."""
        taken = replace(self, lpips=True, extra={}).parts
        for name in self.extra:
            if name in taken or not name.replace("-", "_").isidentifier():
                raise ConfigError(
                    f"{key}.extra.{name} must be a new name of letters, digits, _ and -; these are"
                    f" taken: {', '.join(taken)}"
                )

    def check_asked(self, reference: Optional[str], frames: int) -> None:
        """No other metrics with ``metrics=none``, no scores of clips that are too short.

        Raises ConfigError.
        """
        asked = self.asked if reference is None else f"reference={reference}"
        if asked and not self.enabled:
            raise ConfigError(
                f"{asked} asks for scores, and metrics=none for no scores; leave one out"
            )
        if asked and frames < SCORED_FRAMES:
            raise ConfigError(
                f"{asked} asks for scores, and videos of resolution.frames={frames} are too short"
                f" for them; nearest: {SCORED_FRAMES + 1}"
            )
