"""The settings of ``plan``: those of ``generate`` that determine time and memory. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings, check_backbone
from pixelwizard.config.generate import check_ranks
from pixelwizard.config.memory import MemorySettings, check_memory
from pixelwizard.config.objective import Stage
from pixelwizard.config.output import DecodeSettings, check_decode
from pixelwizard.config.parallel import ParallelSettings
from pixelwizard.config.resolution import ResolutionSettings, check_resolution
from pixelwizard.config.run import RunSettings
from pixelwizard.config.sampler import SamplerSettings, any_guided, check_sampler
from pixelwizard.config.schema import ConfigError, check_range


@dataclass(frozen=True)
class PlanConfig(RunSettings):
    """What determines time and memory of a run: the root of ``plan``; it writes no folder.

    ``plot`` is a PNG file for the picture of both schedules. ``train`` asks for a training of that
    network in place of a run, on each number of ``gpus``.
    """

    task: Literal["plan"] = "plan"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    resolution: ResolutionSettings = field(default_factory=ResolutionSettings)
    anchor: SamplerSettings = field(default_factory=SamplerSettings)
    schedule: SamplerSettings = field(default_factory=SamplerSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    device: Literal["auto", "h200", "h100", "a100", "rtx5090", "rtx4090"] = "auto"
    plot: Optional[str] = None
    train: Optional[Stage] = None
    gpus: List[int] = field(default_factory=lambda: [1, 8])
    format: Literal["text", "json"] = "text"

    @property
    def guided(self) -> bool:
        """Whether any step of the two stages is guided."""
        return any_guided(self.anchor, self.schedule)

    def check(self) -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        check_resolution(self.resolution)
        check_sampler(self.anchor, "anchor")
        check_sampler(self.schedule, "schedule")
        check_backbone(self.backbone)
        check_memory(self.memory)
        check_ranks(self.parallel, self.memory, self.backbone, self.resolution, self.guided)
        check_decode(self.decode, self.resolution.geometry)
        for gpus in self.gpus:
            check_range("gpus", gpus, 1)
        if self.train is None and self.gpus != [1, 8]:
            raise ConfigError(f"gpus={self.gpus} is for train=anchor|detail; leave it out")
        if self.plot is not None and not self.plot.endswith(".png"):
            raise ConfigError(f"plot={self.plot} must end in .png; nearest: {self.plot}.png")
