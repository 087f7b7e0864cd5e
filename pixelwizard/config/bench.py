"""The settings of ``bench``: stages and sizes. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Optional

from pixelwizard.config.output import DecodeSettings
from pixelwizard.config.plan import PlanConfig
from pixelwizard.config.resolution import ResolutionSettings
from pixelwizard.config.run import MemorySettings, StagesSettings
from pixelwizard.config.sampler import SamplerSettings
from pixelwizard.config.setting import setting


@dataclass(frozen=True)
class BenchSettings:
    """How many steps of each schedule are run; the others are counted from them."""

    anchor_steps: int = setting(5, low=1)
    detail_steps: int = setting(2, low=1)


@dataclass(frozen=True)
class BenchConfig(StagesSettings):
    """Everything that determines one ``bench``: networks of random weights at one or two sizes."""

    task: Literal["bench"] = "bench"
    second: Optional[ResolutionSettings] = None
    memory: MemorySettings = setting(MemorySettings)
    decode: DecodeSettings = setting(DecodeSettings)
    bench: BenchSettings = setting(BenchSettings, names_run=0)
    format: Literal["text", "json"] = setting("text", incidental=True)

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        for whole in self.wholes():
            whole.check()

    def wholes(self) -> Iterator[PlanConfig]:
        """What is measured, with whole schedules: one size after the other."""
        names = ("run_dir", "backbone", "anchor", "schedule", "memory", "decode", "attention")
        shared: dict[str, Any] = {name: getattr(self, name) for name in names}
        for size in (self.resolution, self.second):
            if size is not None:
                yield PlanConfig(**shared, resolution=size)

    def shortened(self, whole: PlanConfig) -> PlanConfig:
        """The same with the few steps that are run."""
        return replace(
            whole,
            anchor=first_steps(whole.anchor, self.bench.anchor_steps),
            schedule=first_steps(whole.schedule, self.bench.detail_steps),
        )


def first_steps(sampler: SamplerSettings, count: int) -> SamplerSettings:
    """A sampler with at most ``count`` steps, none skipped, guided where its first steps are."""
    times, guided = sampler.timesteps, sampler.guided_steps
    return replace(
        sampler,
        skip="none",
        steps=min(sampler.steps, count),
        timesteps=None if times is None else times[:count],
        guided_steps=None if guided is None else [step for step in guided if step < count],
    )
