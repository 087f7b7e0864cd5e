"""The settings of evaluate: videos, reference, metrics. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from pixelwizard.config.metrics import MetricsSettings
from pixelwizard.config.run import RunSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting


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
