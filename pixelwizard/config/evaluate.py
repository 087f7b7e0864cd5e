"""The settings of evaluate and compare. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, List, Literal, Optional

from pixelwizard.config.generate import RunSettings
from pixelwizard.config.output import MetricsSettings, TrackerSettings
from pixelwizard.config.schema import ConfigError, setting, show


@dataclass(frozen=True)
class EvaluateConfig(RunSettings):
    """Everything that determines one ``evaluate``: the root of its ``config.yaml``.

    ``captions`` is a prompt file whose ids are the videos' names; without it a run's own prompts
    are used. ``reference`` is a folder of real videos.
    """

    task: Literal["evaluate"] = "evaluate"
    videos: Optional[str] = setting(None, path=True)
    captions: Optional[str] = setting(None, path=True)
    reference: Optional[str] = setting(None, path=True)
    metrics: MetricsSettings = setting(MetricsSettings, names_run=4)
    format: Literal["text", "json"] = setting("text", incidental=True)

    def check(self, key: str = "") -> None:
        """Refuse an evaluation of nothing; folders are looked at when the task starts."""
        if not self.metrics.enabled:
            raise ConfigError("metrics=none leaves nothing to evaluate; nearest: metrics=auto")


DISTANCE = "distance"
AGAINST_REAL = ("psnr", "ssim", "vmaf")
TARGET_STEPS = 32
"""The fewest steps of a target: from here on all targets rank alike (docs/schedules.md)."""


@dataclass(frozen=True)
class CompareConfig:
    """What one ``compare`` does: the root of its configuration.

    ``runs`` are folders of sweeps and of single runs. ``quality`` is the score of the plots:
    ``distance`` to the latent that the ``target``, by default the run of the most steps, made of
    the same noise, or a score of the videos; by default distance, where a run can be its target.
    Differences are from the ``baseline`` (by default the first run). ``out`` is the output folder,
    by default the sweep's.
    """

    task: Literal["compare"] = "compare"
    runs: List[str] = setting([], path=True)
    out: Optional[str] = setting(None, path=True)
    baseline: Optional[str] = None
    target: Optional[str] = None
    quality: Optional[str] = None
    tracker: TrackerSettings = setting(TrackerSettings)
    format: Literal["text", "json"] = "text"

    def check(self, key: str = "") -> None:
        """The score is one that can rank samplers; raises ConfigError."""
        if self.quality in AGAINST_REAL:
            raise ConfigError(
                f"quality={self.quality} is a similarity to real clips, which a sample of the same"
                f" text need not resemble; nearest: {DISTANCE}"
            )
        if self.tracker.kind not in ("wandb", "none"):
            raise ConfigError(f"tracker={self.tracker.kind} records no comparison; nearest: wandb")
        if self.tracker.logger is not None:
            raise ConfigError("tracker.logger records no comparison; leave it out")


def why_no_target(schedule: Mapping[str, Any]) -> str:
    """Why a schedule, as plain values, is not a target of a distance; empty if it is one.

    A target follows the network's path closely by many steps, without step-size conditioning.
    """
    steps = len(schedule.get("timesteps") or range(schedule["steps"]))
    if steps < TARGET_STEPS:
        return f"it has {steps} steps, and at least {TARGET_STEPS} are needed"
    for name in ("step_sizes", "skip"):
        if schedule.get(name, "none") != "none":
            return f"its schedule has {name}={show(schedule[name])}, which must be none"
    if not isinstance(schedule["solver"], str):
        return f"its solver {show(schedule['solver'])} is not one of pixelwizard's"
    return ""
