"""The settings of ``generate``. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Literal, Optional

from pixelwizard.config.metrics import MetricsSettings
from pixelwizard.config.output import TrackerSettings, VideoSettings
from pixelwizard.config.run import SamplingSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting
from pixelwizard.config.targets import Part, door
from pixelwizard.config.trainer import PredictionSettings


@dataclass(frozen=True)
class StoreSettings:
    """The folder that keeps the stages' results between runs."""

    dir: str = setting("outputs/store", path=True)


@dataclass(frozen=True)
class GenerateConfig(SamplingSettings):
    """Everything that determines one ``generate`` run: the root of ``config.yaml``.

    ``prompt`` holds the texts of ``--prompt``, ``prompts`` names a prompt file; with neither, the
    built-in demo prompts run. ``negative_prompt=None`` takes the backbone's. ``group_size`` prompts
    pass through all stages together before the next group starts. ``reference`` is a folder of real
    videos that the finished ones are compared with. ``callbacks`` are Lightning's or the user's.
    """

    task: Literal["generate"] = "generate"
    tracker: TrackerSettings = setting(TrackerSettings, incidental=True)
    video: VideoSettings = setting(VideoSettings)
    metrics: MetricsSettings = setting(MetricsSettings, incidental=True)
    store: StoreSettings = setting(StoreSettings, incidental=True)
    prompt: List[str] = setting([], of_sample=True)
    prompts: Optional[str] = setting(None, path=True, of_sample=True)
    negative_prompt: Optional[str] = None
    seed: int = setting(0, low=0, high=2**62, of_sample=True)
    trainer: PredictionSettings = setting(PredictionSettings, incidental=True)
    callbacks: dict[str, Part] = setting(
        {}, incidental=True, **door("lightning.pytorch.callbacks.Callback")
    )
    group_size: int = setting(8, low=1, incidental=True)
    save_anchor: bool = setting(False, incidental=True)
    reference: Optional[str] = setting(None, path=True, incidental=True)

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        super().check()
        self.metrics.check_asked(self.reference, self.resolution.frames)
        if self.prompt and self.prompts is not None:
            raise ConfigError("--prompt and prompts=FILE exclude each other; leave one out")
