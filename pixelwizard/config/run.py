"""Bases of the tasks' settings: a run folder, the two stages, sampling. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import List

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.memory import MemorySettings
from pixelwizard.config.output import DecodeSettings
from pixelwizard.config.parallel import ParallelSettings, check_parallel
from pixelwizard.config.resolution import ResolutionSettings
from pixelwizard.config.sampler import SamplerSettings, any_guided
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting
from pixelwizard.config.targets import Door, Part

ATTENTION = Door("pixelwizard.models.attention.base.Attention", "pixelwizard.models.attention")


@dataclass(frozen=True)
class RunSettings:
    """The base of the root settings of tasks with a run folder.

    ``search`` are the folders where the modules of users' classes were found, ``replaced``
    names shipped options that a user's file replaced; composing fills both in.
    ``verbose`` are loggers whose debug output goes to ``run.log``; ``root`` means all of them.
    """

    run_dir: str = dataclasses.field(metadata={"path": True, "incidental": True})
    task: str = ""
    search: List[str] = setting([], incidental=True)
    replaced: List[str] = setting([], incidental=True)
    verbose: List[str] = setting([], incidental=True)


@dataclass(frozen=True)
class StagesSettings(RunSettings):
    """The base of tasks with both stages; ``attention`` is that of both transformers."""

    backbone: BackboneSettings = setting(BackboneSettings, names_run=1)
    resolution: ResolutionSettings = setting(ResolutionSettings, names_run=2)
    anchor: SamplerSettings = setting(SamplerSettings)
    schedule: SamplerSettings = setting(SamplerSettings, names_run=3)
    attention: Part = setting("exact", later=True, door=ATTENTION)


@dataclass(frozen=True)
class SamplingSettings(StagesSettings):
    """The base of tasks that sample or plan it: placement on devices."""

    memory: MemorySettings = setting(MemorySettings)
    parallel: ParallelSettings = setting(ParallelSettings, incidental=True)
    decode: DecodeSettings = setting(DecodeSettings)

    @property
    def guided(self) -> bool:
        """Whether any step of the two stages is guided."""
        return any_guided(self.anchor, self.schedule)

    def check(self, key: str = "") -> None:
        """A layout that the networks allow; weights are either sharded or in host memory.

        Raises ConfigError.
        """
        heads, tokens = self.backbone.dit.num_heads, self.resolution.anchor_geometry.tokens
        check_parallel(self.parallel, heads, self.guided, tokens)
        if self.parallel.shard != "none" and self.memory.mode in ("offload", "stream"):
            raise ConfigError(
                f"parallel.shard={self.parallel.shard} keeps slices of the weights on the devices,"
                f" not in host memory as memory={self.memory.mode} does; use memory=auto or"
                " parallel.shard=none"
            )
        self.decode.check_tiles(self.resolution.geometry)
