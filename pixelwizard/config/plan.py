"""The settings of ``plan``: those of ``generate`` that determine time and memory. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Literal, Optional

from pixelwizard.config.objective import Stage
from pixelwizard.config.run import SamplingSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting


@dataclass(frozen=True)
class PlanConfig(SamplingSettings):
    """The settings that determine time and memory of a run: the root of ``plan``.

    ``plot`` is a PNG file for the picture of both schedules. ``train`` asks for a training of that
    network in place of a run, on each number of ``gpus``.
    """

    task: Literal["plan"] = "plan"
    device: Literal["auto", "h200", "h100", "a100", "rtx5090", "rtx4090"] = "auto"
    plot: Optional[str] = setting(None, path=True)
    train: Optional[Stage] = None
    gpus: List[int] = setting([1, 8], low=1)
    format: Literal["text", "json"] = setting("text", incidental=True)

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        super().check()
        if self.train is None and self.gpus != [1, 8]:
            raise ConfigError(f"gpus={self.gpus} is for train=anchor|detail; leave it out")
        if self.plot is not None and not self.plot.endswith(".png"):
            raise ConfigError(f"plot={self.plot} must end in .png; nearest: {self.plot}.png")
