"""The settings of ``bench``: what is measured, at which sizes. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Optional

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.memory import MemorySettings
from pixelwizard.config.output import DecodeSettings
from pixelwizard.config.plan import PlanConfig
from pixelwizard.config.resolution import ResolutionSettings
from pixelwizard.config.run import RunSettings
from pixelwizard.config.sampler import SamplerSettings
from pixelwizard.config.schema import check_range


@dataclass(frozen=True)
class BenchSettings:
    """How many steps of each schedule are run; the others are counted from them."""

    anchor_steps: int = 5
    detail_steps: int = 2


@dataclass(frozen=True)
class BenchConfig(RunSettings):
    """Everything that determines one ``bench``: networks of random weights at one or two sizes."""

    task: Literal["bench"] = "bench"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    resolution: ResolutionSettings = field(default_factory=ResolutionSettings)
    second: Optional[ResolutionSettings] = None
    anchor: SamplerSettings = field(default_factory=SamplerSettings)
    schedule: SamplerSettings = field(default_factory=SamplerSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    bench: BenchSettings = field(default_factory=BenchSettings)
    format: Literal["text", "json"] = "text"

    def check(self) -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        for whole in self.wholes():
            whole.check()
        check_range("bench.anchor_steps", self.bench.anchor_steps, 1)
        check_range("bench.detail_steps", self.bench.detail_steps, 1)

    def wholes(self) -> Iterator[PlanConfig]:
        """What is measured, with whole schedules: one size after the other."""
        for size in (self.resolution, self.second):
            if size is not None:
                yield PlanConfig(
                    run_dir=self.run_dir,
                    backbone=self.backbone,
                    resolution=size,
                    anchor=self.anchor,
                    schedule=self.schedule,
                    memory=self.memory,
                    decode=self.decode,
                )

    def shortened(self, whole: PlanConfig) -> PlanConfig:
        """The same with the few steps that are run."""
        return replace(
            whole,
            anchor=first_steps(whole.anchor, self.bench.anchor_steps),
            schedule=first_steps(whole.schedule, self.bench.detail_steps),
        )


def first_steps(sampler: SamplerSettings, count: int) -> SamplerSettings:
    """A sampler with at most ``count`` steps, guided where its first steps are."""
    times, guided = sampler.timesteps, sampler.guided_steps
    return replace(
        sampler,
        steps=min(sampler.steps, count),
        timesteps=None if times is None else times[:count],
        guided_steps=None if guided is None else [step for step in guided if step < count],
    )
