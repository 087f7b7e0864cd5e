"""The settings of ``generate``. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings, check_backbone
from pixelwizard.config.memory import MemorySettings, check_memory
from pixelwizard.config.metrics import MetricsSettings, check_metrics
from pixelwizard.config.output import (
    DecodeSettings,
    TrackerSettings,
    VideoSettings,
    check_decode,
    check_tracker,
    check_video,
)
from pixelwizard.config.parallel import ParallelSettings, check_parallel
from pixelwizard.config.resolution import ResolutionSettings, check_resolution
from pixelwizard.config.run import RunSettings
from pixelwizard.config.sampler import SamplerSettings, any_guided, check_sampler
from pixelwizard.config.schema import ConfigError, check_range


@dataclass(frozen=True)
class StoreSettings:
    """Where the stages' results are kept between runs."""

    dir: str = "outputs/store"


@dataclass(frozen=True)
class GenerateConfig(RunSettings):
    """Everything that determines one ``generate`` run: the root of ``config.yaml``.

    ``prompt`` holds the texts of ``--prompt``, ``prompts`` names a prompt file; with neither, the
    built-in demo prompts run. ``negative_prompt=None`` takes the backbone's. ``group_size`` prompts
    pass through all stages together before the next group starts. ``reference`` is a folder of real
    videos that the finished ones are compared with.
    """

    task: Literal["generate"] = "generate"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    resolution: ResolutionSettings = field(default_factory=ResolutionSettings)
    anchor: SamplerSettings = field(default_factory=SamplerSettings)
    schedule: SamplerSettings = field(default_factory=SamplerSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    video: VideoSettings = field(default_factory=VideoSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    prompt: List[str] = field(default_factory=list)
    prompts: Optional[str] = None
    negative_prompt: Optional[str] = None
    seed: int = 0
    group_size: int = 8
    save_anchor: bool = False
    reference: Optional[str] = None

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
        check_video(self.video)
        check_tracker(self.tracker)
        check_metrics(self.metrics, self.reference, self.resolution.frames)
        check_range("seed", self.seed, 0, 2**62)
        check_range("group_size", self.group_size, 1)
        if self.prompt and self.prompts is not None:
            raise ConfigError("--prompt and prompts=FILE exclude each other; leave one out")


def check_ranks(
    parallel: ParallelSettings,
    memory: MemorySettings,
    backbone: BackboneSettings,
    size: ResolutionSettings,
    guided: bool,
) -> None:
    """A layout of ranks that the networks allow; weights are either sharded or in host memory."""
    check_parallel(parallel, backbone.dit.num_heads, guided, size.anchor_geometry.tokens)
    if parallel.shard != "none" and memory.mode in ("offload", "stream"):
        raise ConfigError(
            f"parallel.shard={parallel.shard} keeps slices of the weights on the devices, not in"
            f" host memory as memory={memory.mode} does; use memory=auto or parallel.shard=none"
        )
