"""The settings of pixelwizard: one typed definition, the schema of Hydra and the runtime values.

Nothing here imports torch or hydra: configurations are composed and refused in under a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, List, Literal, Optional, Union

import yaml

from pixelwizard.geometry import Geometry
from pixelwizard.schema import ConfigError, build, check_range, choice
from pixelwizard.settings.metrics import MetricsSettings as MetricsSettings
from pixelwizard.settings.metrics import check_metrics
from pixelwizard.settings.output import DecodeSettings as DecodeSettings
from pixelwizard.settings.output import TrackerSettings as TrackerSettings
from pixelwizard.settings.output import VideoSettings as VideoSettings
from pixelwizard.settings.output import check_decode, check_tracker, check_video
from pixelwizard.settings.parallel import ParallelSettings as ParallelSettings
from pixelwizard.settings.parallel import check_parallel as check_parallel
from pixelwizard.settings.sampler import SamplerSettings as SamplerSettings
from pixelwizard.settings.sampler import any_guided as any_guided
from pixelwizard.settings.sampler import check_sampler as check_sampler
from pixelwizard.sizes import DiTSizes as DiTSizes
from pixelwizard.sizes import TextSizes as TextSizes
from pixelwizard.sizes import VAESizes as VAESizes


@dataclass(frozen=True)
class BackboneSettings:
    """One backbone: where its weights are and how large its networks are.

    ``folder`` is laid out like the official release (``None``: the weights inside the package);
    ``anchor`` and ``detail`` are checkpoints of the two stages (``None``: the folder's own);
    ``ema``: whether a trainer's container gives its averaged weights (``auto``: if it has them).
    The two guidance scales are those of ``anchor`` and ``schedule`` where they set none.
    """

    name: str = "tiny"
    folder: Optional[str] = None
    anchor: Optional[str] = None
    detail: Optional[str] = None
    ema: Literal["auto", "true", "false"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    negative_prompt: str = ""
    anchor_guidance: float = 5.0
    detail_guidance: float = 5.0
    dit: DiTSizes = field(default_factory=DiTSizes)
    detail_layers: Optional[int] = None
    control_blocks: List[int] = field(default_factory=lambda: [1])
    vae: VAESizes = field(default_factory=VAESizes)
    text: TextSizes = field(default_factory=TextSizes)

    @property
    def detail_dit(self) -> DiTSizes:
        """The sizes of the detail network: those of the anchor, but for its number of blocks."""
        return replace(self.dit, num_layers=self.detail_layers or self.dit.num_layers)


@dataclass(frozen=True)
class ResolutionSettings:
    """Sizes in pixels and frames, and the shift of both stages."""

    width: int = 512
    height: int = 320
    frames: int = 17
    anchor_width: int = 256
    anchor_height: int = 160
    anchor_shift: float = 5.0
    shift: float = 5.5

    @property
    def geometry(self) -> Geometry:
        """The grid of the finished video."""
        return Geometry(self.width, self.height, self.frames)

    @property
    def anchor_geometry(self) -> Geometry:
        """The grid of the anchor."""
        return Geometry(self.anchor_width, self.anchor_height, self.frames)


@dataclass(frozen=True)
class MemorySettings:
    """Where the weights of a stage are and how much of a device a stage may use.

    ``resident``: on the device while the stage runs. ``offload``: the same, and in host memory
    between groups of prompts instead of being read again. ``stream``: the blocks of a transformer
    stay in host memory and pass through the device. ``auto``: resident if it fits, else stream.
    ``budget_gb`` (1e9 bytes; None: what the device has), ``chunk`` tokens go through a layer
    together (None: as the plan chooses), ``residual`` is the type of the residual stream.
    """

    mode: Literal["auto", "resident", "offload", "stream"] = "auto"
    budget_gb: Optional[float] = None
    chunk: Optional[int] = None
    residual: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class StoreSettings:
    """Where the stages' results are kept between runs."""

    dir: str = "outputs/store"


@dataclass(frozen=True)
class Config:
    """Everything that determines one ``generate`` run: the root of ``config.yaml``.

    ``prompt`` holds the texts of ``--prompt``, ``prompts`` names a prompt file; with neither, the
    built-in demo prompts run. ``negative_prompt=None`` takes the backbone's. ``group_size`` prompts
    pass through all stages together before the next group starts. ``reference`` is a folder of real
    videos that the finished ones are compared with.
    """

    run_dir: str
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


def roots() -> dict[str, type]:
    """The root dataclass of every task; each has a method ``check``."""
    from pixelwizard.settings.bench import BenchConfig
    from pixelwizard.settings.compare import CompareConfig
    from pixelwizard.settings.data import EncodeConfig
    from pixelwizard.settings.evaluate import EvaluateConfig
    from pixelwizard.settings.plan import PlanConfig
    from pixelwizard.settings.replay import ReplayConfig
    from pixelwizard.settings.train import TrainConfig
    from pixelwizard.settings.weights import ConvertConfig, FetchConfig

    tasks: tuple[Any, ...] = (Config, TrainConfig, EvaluateConfig, PlanConfig, BenchConfig)
    tasks += (EncodeConfig, CompareConfig, FetchConfig, ConvertConfig, ReplayConfig)
    return {root.task: root for root in tasks}


def load(path: Union[str, Path]) -> Any:
    """Read a run folder's ``config.yaml`` into its task's dataclass, checked again.

    Raises ConfigError where the file is not a configuration of this version.
    """
    return from_plain(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


def from_plain(values: Any) -> Any:
    """Plain values to the dataclass that their ``task`` names, with every check applied."""
    task = values.get("task") if isinstance(values, dict) else None
    if task not in roots():
        raise ConfigError(choice("task", task, roots()))
    config: Any = build(roots()[task], values)
    config.check()
    return config


def check_resolution(size: ResolutionSettings) -> None:
    """Sizes on the backbone's grid, the anchor no larger than the video."""
    for prefix, name in (("", "geometry"), ("anchor_", "anchor_geometry")):
        try:
            getattr(size, name)
        except ValueError as error:
            shared = "" if str(error).startswith("frames") else prefix
            raise ConfigError(f"resolution.{shared}{error}") from None
    for side in ("width", "height"):
        small, large = getattr(size, f"anchor_{side}"), getattr(size, side)
        if small > large:
            raise ConfigError(
                f"resolution.anchor_{side}={small} is larger than resolution.{side}={large};"
                f" nearest: {large}"
            )
    check_range("resolution.shift", size.shift, 0.01)
    check_range("resolution.anchor_shift", size.anchor_shift, 0.01)


def check_backbone(backbone: BackboneSettings) -> None:
    """Networks whose sizes fit each other."""
    dit = backbone.dit
    pair = 2 * dit.num_heads
    if dit.dim < pair or dit.dim % pair:
        nearest = max(1, round(dit.dim / pair)) * pair
        raise ConfigError(
            f"backbone.dit.dim={dit.dim} must be an even multiple of"
            f" backbone.dit.num_heads={dit.num_heads}; nearest: {nearest}"
        )
    for block in backbone.control_blocks:
        check_range("backbone.control_blocks", block, 0, backbone.detail_dit.num_layers - 1)


def check_memory(memory: MemorySettings) -> None:
    """A budget and a chunk that are at all possible."""
    if memory.budget_gb is not None:
        check_range("memory.budget_gb", memory.budget_gb, 1.0)
    if memory.chunk is not None:
        check_range("memory.chunk", memory.chunk, 64)


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
