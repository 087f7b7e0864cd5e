"""The settings of training: what is trained, on what, how fast and for how long. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings, check_backbone
from pixelwizard.config.data import DataSettings, check_data
from pixelwizard.config.metrics import MetricsSettings
from pixelwizard.config.objective import (
    OBJECTIVES,
    STAGES,
    ObjectiveSettings,
    Stage,
    check_channels,
    check_objective,
    trained_part,
)
from pixelwizard.config.output import TrackerSettings, check_tracker
from pixelwizard.config.parallel import ParallelSettings, check_parallel
from pixelwizard.config.resolution import ResolutionSettings, check_resolution
from pixelwizard.config.run import RunSettings
from pixelwizard.config.sampler import SamplerSettings, check_sampler
from pixelwizard.config.schema import ConfigError, check_range
from pixelwizard.config.targets import DOOR


@dataclass(frozen=True)
class OptimizerSettings:
    """Muon for the matrices inside the network (``muon_lr=0``: none), AdamW for everything else.

    The rates rise over ``warmup`` steps, hold, and fall to 0 over the last ``decay`` of training;
    ``clip`` bounds the norm of the gradient. The average of the weights forgets by ``ema`` a step
    from step ``ema_start`` on, and is the weights themselves before; ``null`` lets the factor rise
    to ``ema`` instead, as (1 + n) / (10 + n).
    """

    lr: float = 2e-3
    muon_lr: float = 3e-3
    momentum: float = 0.95
    betas: List[float] = field(default_factory=lambda: [0.9, 0.98])
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 50
    decay: float = 0.4
    ema: float = 0.998
    ema_start: Optional[int] = None


@dataclass(frozen=True)
class TrainerSettings:
    """How long to train: to ``max_steps`` or ``max_minutes``, whichever comes first.

    A step is one update, of ``accumulate`` batches. ``gradient_checkpointing`` computes every block
    a second time instead of keeping what is inside it. ``threads=0`` leaves the number of threads
    alone. Figures are logged every ``log_every`` steps.
    """

    max_steps: int = 10000
    max_minutes: Optional[float] = None
    accumulate: int = 1
    gradient_checkpointing: bool = False
    threads: int = 0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    log_every: int = 10


@dataclass(frozen=True)
class CheckpointSettings:
    """After how many steps training state, export and held-out loss are written.

    The last ``keep`` states stay. ``container`` exports the reference's ``model.pt`` too, which
    holds the last weights (``generator``) and the averaged ones (``generator_ema``).
    """

    every: int = 200
    keep: int = 2
    container: bool = False


@dataclass(frozen=True)
class SampleSettings:
    """Every how many steps (0: never) the first ``count`` held-out examples become videos.

    They are made by ``anchor`` or ``schedule`` from the averaged weights, always with the same
    noise, and scored by ``metrics``.
    """

    every: int = 0
    count: int = 4


@dataclass(frozen=True)
class TrainConfig(RunSettings):
    """Everything that determines one ``train`` run: the root of its ``config.yaml``.

    ``stage`` is the network that a flow or shortcut objective trains (None: the detail network for
    shortcuts, else the anchor network). ``anchor`` and ``schedule`` make the samples of the two
    stages; ``sampling=schedules`` takes its steps from the grid of ``schedule.solver``.
    """

    task: Literal["train"] = "train"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    resolution: ResolutionSettings = field(default_factory=ResolutionSettings)
    anchor: SamplerSettings = field(default_factory=SamplerSettings)
    schedule: SamplerSettings = field(default_factory=SamplerSettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    data: DataSettings = field(default_factory=DataSettings)
    stage: Optional[Stage] = None
    objective: ObjectiveSettings = field(
        default_factory=ObjectiveSettings, metadata={DOOR: OBJECTIVES}
    )
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    samples: SampleSettings = field(default_factory=SampleSettings)
    seed: int = 0

    @property
    def part(self) -> str:
        """The network that is trained: anchor, detail, vae, clip_encoder or video_encoder."""
        return trained_part(self.objective, self.stage)

    @property
    def guided(self) -> bool:
        """A training has no passes that ranks could share."""
        return False

    def check(self) -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        check_resolution(self.resolution)
        check_sampler(self.anchor, "anchor")
        check_sampler(self.schedule, "schedule")
        check_backbone(self.backbone)
        check_range("seed", self.seed, 0, 2**31)
        check_objective(self.objective, self.stage)
        check_channels(self.objective.flow, self.backbone.dit.in_dim)
        check_data(self.data, self.resolution, self.part)
        check_tracker(self.tracker)
        check_optimizer(self.optimizer)
        for key, value, low in (
            ("trainer.max_steps", self.trainer.max_steps, 1),
            ("trainer.accumulate", self.trainer.accumulate, 1),
            ("trainer.threads", self.trainer.threads, 0),
            ("trainer.log_every", self.trainer.log_every, 1),
            ("checkpoint.every", self.checkpoint.every, 1),
            ("checkpoint.keep", self.checkpoint.keep, 1),
            ("samples.every", self.samples.every, 0),
            ("samples.count", self.samples.count, 1),
        ):
            check_range(key, value, low)
        check_training_ranks(self)
        if self.trainer.max_minutes is not None:
            check_range("trainer.max_minutes", self.trainer.max_minutes, 0.001)
        if self.trainer.gradient_checkpointing and self.part not in STAGES:
            raise ConfigError(
                f"trainer.gradient_checkpointing has no part in objective={self.part}; leave it out"
            )
        if self.samples.every and (self.part not in STAGES or not self.data.held_out):
            raise ConfigError(
                f"samples.every={self.samples.every} needs held-out examples of an anchor or a"
                " detail network; use samples.every=0"
            )


def check_optimizer(optimizer: OptimizerSettings) -> None:
    """Rates above 0, factors in 0..1; raises ConfigError."""
    if len(optimizer.betas) != 2:
        raise ConfigError(f"optimizer.betas={optimizer.betas} must be two numbers")
    lows = {"lr": 0.0, "muon_lr": 0.0, "clip": 1e-9, "warmup": 0, "weight_decay": 0.0}
    for name, low in lows.items():
        check_range(f"optimizer.{name}", getattr(optimizer, name), low)
    for name in ("decay", "momentum", "ema"):
        check_range(f"optimizer.{name}", getattr(optimizer, name), 0.0, 1.0)
    for beta in optimizer.betas:
        check_range("optimizer.betas", beta, 0.0, 1.0)
    if optimizer.ema_start is not None:
        check_range("optimizer.ema_start", optimizer.ema_start, 0)


def check_training_ranks(config: TrainConfig) -> None:
    """Ranks share the batches of a training, nothing else; raises ConfigError."""
    parallel = config.parallel
    check_parallel(parallel, 1, config.guided, 1)
    if parallel.mode == "single":
        return
    if parallel.mode not in ("prompts", "fsdp"):
        raise ConfigError(
            f"parallel={parallel.mode} is for generate; the ranks of a training share its batches:"
            " use parallel=prompts or parallel=fsdp"
        )
    if config.part not in STAGES:
        raise ConfigError(
            f"parallel={parallel.mode} is for the anchor and the detail network, not for"
            f" {config.part}; leave it out"
        )
    if config.trainer.max_minutes is not None or config.samples.every:
        key = "samples.every" if config.samples.every else "trainer.max_minutes"
        raise ConfigError(
            f"{key} is for one rank; with parallel={parallel.mode} leave it out"
            " and set trainer.max_steps"
        )
