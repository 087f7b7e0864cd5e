"""The settings of evaluate, compare and table. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Dict, List, Literal, Optional

from pixelwizard.config.generate import RunSettings
from pixelwizard.config.output import MetricsSettings, TrackerSettings
from pixelwizard.config.schema import ConfigError, setting, show


@dataclass(frozen=True)
class EvaluateConfig(RunSettings):
    """Everything that determines one ``evaluate``: the root of its ``config.yaml``.

    ``captions`` is a prompt file whose ids are the videos' names; without it a run's own prompts
    are used. ``reference`` is a folder of real videos. The command's ``tracker`` is W&B.
    """

    task: Literal["evaluate"] = "evaluate"
    videos: Optional[str] = setting(None, path=True)
    captions: Optional[str] = setting(None, path=True)
    reference: Optional[str] = setting(None, path=True)
    tracker: TrackerSettings = setting(TrackerSettings(kind="none"), incidental=True)
    metrics: MetricsSettings = setting(MetricsSettings, names_run=4)
    format: Literal["text", "json"] = setting("text", incidental=True)

    def check(self, key: str = "") -> None:
        """Refuse an evaluation of nothing; folders are looked at when the task starts."""
        if not self.metrics.enabled:
            raise ConfigError("metrics=none leaves nothing to evaluate; nearest: metrics=auto")
        _check_tracker(self.tracker, "evaluation")


DISTANCE = "distance"
FILTERS = ("bicubic", "lanczos")
"""Arms of clips that are only enlarged."""
AGAINST_REAL = ("psnr", "ssim", "vmaf")
TARGET_STEPS = 32
"""The fewest steps of a target: from here on all targets rank alike (docs/schedules.md)."""


@dataclass(frozen=True)
class CompareConfig:
    """What one ``compare`` does: the root of its configuration.

    ``runs`` are folders of sweeps and of single runs. ``quality`` is the score of the plots:
    ``distance`` to the latent that the ``target``, by default the run with the most steps,
    generated from the same noise, or a score of the videos; the default is distance if a run can be
    its target.
    Differences are from the ``baseline`` (by default the first run). ``arms`` adds the clips that
    runs refine, enlarged by a filter; so does the name of one as ``baseline``. ``out`` is the
    output folder, by default the sweep's.
    """

    task: Literal["compare"] = "compare"
    runs: List[str] = setting([], path=True)
    out: Optional[str] = setting(None, path=True)
    baseline: Optional[str] = None
    arms: List[Literal["bicubic", "lanczos"]] = setting([])
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
        _check_tracker(self.tracker, "comparison")


@dataclass(frozen=True)
class LayoutSettings:
    """The columns of a table: the name of a score, and its heading; none means all scores.

    Besides scores there are ``seconds`` of the detail stage, ``seconds_total`` of all stages, and
    ``peak_gb``.
    """

    columns: Dict[str, str] = setting({})


@dataclass(frozen=True)
class TableConfig:
    """What one ``table`` does: the root of its configuration.

    ``runs`` are folders of sweeps, runs and evaluations, and folders of videos: each gives rows.
    Videos without scores are scored with ``metrics`` and ``reference``; all videos are if one of
    these is set. ``cited`` are files of published rows. ``out`` is the output folder.
    """

    task: Literal["table"] = "table"
    runs: List[str] = setting([], path=True)
    cited: List[str] = setting([], path=True)
    reference: Optional[str] = setting(None, path=True)
    tracker: TrackerSettings = setting(TrackerSettings)
    metrics: MetricsSettings = setting(MetricsSettings)
    layout: LayoutSettings = setting(LayoutSettings)
    out: Optional[str] = setting(None, path=True)
    format: Literal["text", "json"] = "text"

    def check(self, key: str = "") -> None:
        """Scores are needed, and W&B is the only tracker of a table; raises ConfigError."""
        if not self.metrics.enabled:
            raise ConfigError("metrics=none leaves nothing for a table; nearest: metrics=auto")
        _check_tracker(self.tracker, "table")


def _check_tracker(tracker: TrackerSettings, what: str) -> None:
    if tracker.kind not in ("wandb", "none"):
        raise ConfigError(f"tracker={tracker.kind} records no {what}; nearest: wandb")
    if tracker.logger is not None:
        raise ConfigError(f"tracker.logger records no {what}; leave it out")


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
