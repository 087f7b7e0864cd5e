"""The settings of evaluate: which videos are scored, against what, by which networks. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from pixelwizard.config.metrics import MetricsSettings, check_extra
from pixelwizard.config.run import RunSettings
from pixelwizard.config.schema import ConfigError


@dataclass(frozen=True)
class EvaluateConfig(RunSettings):
    """Everything that determines one ``evaluate``: the root of its ``config.yaml``.

    ``captions`` is a prompt file whose ids are the videos' names; without it a run's own prompts
    are used. ``reference`` is a folder of real videos.
    """

    task: Literal["evaluate"] = "evaluate"
    videos: Optional[str] = None
    captions: Optional[str] = None
    reference: Optional[str] = None
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    format: Literal["text", "json"] = "text"

    def check(self) -> None:
        """Refuse an evaluation of nothing; folders are looked at when the task starts."""
        check_extra(self.metrics)
        if not self.metrics.enabled:
            raise ConfigError("metrics=none leaves nothing to evaluate; nearest: metrics=auto")
