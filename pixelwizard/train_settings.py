"""The settings of training: what is trained, on what, how fast and for how long. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

from pixelwizard.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE
from pixelwizard.objective_settings import (
    ObjectiveSettings,
    Stage,
    check_objective,
    trained_part,
)
from pixelwizard.schema import ConfigError
from pixelwizard.settings import (
    BackboneSettings,
    ResolutionSettings,
    SamplerSettings,
    check_backbone,
    check_range,
    check_resolution,
    check_sampler,
)


@dataclass(frozen=True)
class DataSettings:
    """Procedural clips for training, and the cache of their latents below ``dir``.

    ``clips`` and ``pairs`` are how many training examples of the anchor and of the detail network
    the cache grows to; training starts when ``ready`` of them are there, and ``workers`` processes
    encode the rest beside it. ``held_out`` examples of the held-out captions measure the loss.
    The autoencoder trains on ``crops`` random crops of each clip, ``crop`` pixels wide and high and
    ``crop_frames`` long, mixed over the ``window`` latest clips.
    """

    dir: str = "outputs/latents"
    clips: int = 4000
    pairs: int = 1200
    held_out: int = 32
    ready: int = 320
    shard: int = 32
    workers: int = 1
    crop: int = 64
    crop_frames: int = 9
    crops: int = 6
    window: int = 50


@dataclass(frozen=True)
class OptimizerSettings:
    """Muon for the matrices inside the network (``muon_lr=0``: none), AdamW for everything else.

    The rates rise over ``warmup`` steps, hold, and fall to 0 over the last ``decay`` of training.
    """

    lr: float = 2e-3
    muon_lr: float = 3e-3
    momentum: float = 0.95
    betas: List[float] = field(default_factory=lambda: [0.9, 0.98])
    clip: float = 1.0
    warmup: int = 50
    decay: float = 0.4
    ema: float = 0.998


@dataclass(frozen=True)
class TrainerSettings:
    """How long to train: to ``max_steps`` or ``max_minutes``, whichever comes first.

    ``threads=0`` leaves the number of threads alone.
    """

    max_steps: int = 10000
    max_minutes: Optional[float] = None
    threads: int = 0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


@dataclass(frozen=True)
class CheckpointSettings:
    """After how many steps training state, export and held-out loss are written."""

    every: int = 200
    keep: int = 2


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines one ``train`` run: the root of its ``config.yaml``.

    ``stage`` is the network that a flow or shortcut objective trains (None: the detail network for
    shortcuts, else the anchor network).
    """

    run_dir: str
    task: Literal["train"] = "train"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    resolution: ResolutionSettings = field(default_factory=ResolutionSettings)
    schedule: SamplerSettings = field(default_factory=SamplerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    stage: Optional[Stage] = None
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    seed: int = 0

    @property
    def part(self) -> str:
        """The network that is trained: anchor, detail, vae, clip_encoder or video_encoder."""
        return trained_part(self.objective, self.stage)

    def check(self) -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        check_resolution(self.resolution)
        check_sampler(self.schedule, "schedule")
        check_backbone(self.backbone)
        check_range("seed", self.seed, 0, 2**31)
        check_clips(self.resolution)
        check_objective(self.objective, self.stage)
        if self.part == "vae":
            check_crops(self.data, self.resolution)
        if len(self.optimizer.betas) != 2:
            raise ConfigError(f"optimizer.betas={self.optimizer.betas} must be two numbers")
        for key, value, low in (
            ("data.clips", self.data.clips, 1),
            ("data.pairs", self.data.pairs, 1),
            ("data.shard", self.data.shard, 1),
            ("data.held_out", self.data.held_out, 1),
            ("data.ready", self.data.ready, 1),
            ("data.workers", self.data.workers, 0),
            ("data.crops", self.data.crops, 1),
            ("data.window", self.data.window, 1),
            ("optimizer.lr", self.optimizer.lr, 0.0),
            ("optimizer.muon_lr", self.optimizer.muon_lr, 0.0),
            ("optimizer.clip", self.optimizer.clip, 1e-9),
            ("optimizer.warmup", self.optimizer.warmup, 0),
            ("trainer.max_steps", self.trainer.max_steps, 1),
            ("trainer.threads", self.trainer.threads, 0),
            ("checkpoint.every", self.checkpoint.every, 1),
            ("checkpoint.keep", self.checkpoint.keep, 1),
        ):
            check_range(key, value, low)
        for key, share in (
            ("optimizer.decay", self.optimizer.decay),
            ("optimizer.momentum", self.optimizer.momentum),
            ("optimizer.ema", self.optimizer.ema),
            *(("optimizer.betas", beta) for beta in self.optimizer.betas),
        ):
            check_range(key, share, 0.0, 1.0)
        if self.trainer.max_minutes is not None:
            check_range("trainer.max_minutes", self.trainer.max_minutes, 0.001)


def check_clips(size: ResolutionSettings) -> None:
    """Clips wide enough for the shapes; raises ConfigError."""
    for prefix, clip in (("", size.geometry), ("anchor_", size.anchor_geometry)):
        if clip.width < clip.height:
            raise ConfigError(
                f"resolution.{prefix}width={clip.width} is too narrow for the shapes of training"
                f" clips that are {clip.height} high; nearest: {clip.height}"
            )


def check_crops(data: DataSettings, size: ResolutionSettings) -> None:
    """Crops on the autoencoder's grid that fit into the clips; raises ConfigError."""
    check_range("data.crop", data.crop, SPATIAL_STRIDE, min(size.anchor_width, size.anchor_height))
    check_range("data.crop_frames", data.crop_frames, 1, size.frames)
    side = data.crop // SPATIAL_STRIDE * SPATIAL_STRIDE
    if data.crop != side:
        raise ConfigError(
            f"data.crop={data.crop} is not a multiple of {SPATIAL_STRIDE}; nearest: {side}"
        )
    frames = (data.crop_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
    if data.crop_frames != frames:
        raise ConfigError(f"data.crop_frames={data.crop_frames} is not 4n+1; nearest: {frames}")
