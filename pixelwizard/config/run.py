"""Bases of the tasks' settings: a run folder, the two stages, sampling. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings
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
class MemorySettings:
    """Where the weights of a stage are, and how much device memory a stage may use.

    ``resident``: on the device while the stage runs. ``offload``: the same, but kept in host memory
    between groups of prompts instead of being read again. ``stream``: the blocks of a transformer
    stay in host memory and pass through the device. ``auto``: resident if it fits, else stream.
    ``budget_gb`` (1e9 bytes; None: what the device has), ``chunk`` tokens go through a layer
    together (None: as the plan chooses), ``residual`` is the type of the residual stream.
    """

    mode: Literal["auto", "resident", "offload", "stream"] = setting("auto", incidental=True)
    budget_gb: Optional[float] = setting(None, low=1.0, incidental=True)
    chunk: Optional[int] = setting(None, low=64, incidental=True)
    residual: Literal["float32", "bfloat16"] = "float32"


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
