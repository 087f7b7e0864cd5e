"""The settings of compare: which runs, against which of them, by which score. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

from pixelwizard.config.output import TrackerSettings, check_tracker
from pixelwizard.config.schema import ConfigError

DISTANCE = "distance"
AGAINST_REAL = ("psnr", "ssim", "vmaf")


@dataclass(frozen=True)
class CompareConfig:
    """What one ``compare`` does: the root of its configuration.

    ``runs`` are folders of sweeps and of single runs. ``quality`` is the score of the plots:
    ``distance`` (to the latent that the ``reference``, by default the one with the most network
    passes, made from the same noise) or a score of the videos. Differences are those from the
    ``baseline`` (by default the first). ``out`` is where everything goes, by default the sweep.
    """

    task: Literal["compare"] = "compare"
    runs: List[str] = field(default_factory=list)
    out: Optional[str] = None
    baseline: Optional[str] = None
    reference: Optional[str] = None
    quality: str = DISTANCE
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    format: Literal["text", "json"] = "text"

    def check(self) -> None:
        """The score is one that can rank samplers; raises ConfigError."""
        if self.quality in AGAINST_REAL:
            raise ConfigError(
                f"quality={self.quality} is a similarity to real clips, which a sample of the same"
                f" text need not resemble; nearest: {DISTANCE}"
            )
        check_tracker(self.tracker)
        if self.tracker.kind not in ("wandb", "none"):
            raise ConfigError(f"tracker={self.tracker.kind} records no comparison; nearest: wandb")
        if self.tracker.logger is not None:
            raise ConfigError("tracker.logger records no comparison; leave it out")
