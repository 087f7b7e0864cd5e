"""The settings of training: what is trained, on what, how fast and for how long. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Literal, Optional

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
from pixelwizard.config.output import TrackerSettings
from pixelwizard.config.parallel import ParallelSettings, check_parallel
from pixelwizard.config.run import StagesSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting
from pixelwizard.config.targets import OwnPart, Part, door
from pixelwizard.config.trainer import TrainerSettings


@dataclass(frozen=True)
class OptimizerSettings(OwnPart):
    """Muon for the matrices inside the network (``muon_lr=0``: none), AdamW for everything else.

    The rates rise over ``warmup`` steps, hold, and fall to 0 over the last ``decay`` of training;
    ``clip`` bounds the norm of the gradient. The EMA of the weights has decay ``ema``
    from step ``ema_start`` on, and equals the weights before; with ``null`` the decay rises
    to ``ema`` as (1 + n) / (10 + n). A user's class in place of Muon and AdamW
    takes all parameters; its own rate is the highest.
    """

    lr: float = setting(2e-3, low=0.0)
    muon_lr: float = setting(3e-3, low=0.0)
    momentum: float = setting(0.95, low=0.0, high=1.0)
    betas: List[float] = setting([0.9, 0.98], low=0.0, high=1.0)
    weight_decay: float = setting(0.0, low=0.0)
    clip: float = setting(1.0, low=1e-9, stays=True)
    warmup: int = setting(50, low=0, stays=True)
    decay: float = setting(0.4, low=0.0, high=1.0, stays=True)
    ema: float = setting(0.998, low=0.0, high=1.0, stays=True)
    ema_start: Optional[int] = setting(None, low=0, stays=True)

    def check(self, key: str) -> None:
        """Two betas; raises ConfigError."""
        if len(self.betas) != 2:
            raise ConfigError(f"{key}.betas={self.betas} must be two numbers")


@dataclass(frozen=True)
class CheckpointSettings:
    """Every how many steps checkpoint, export and held-out loss are written.

    The last ``keep`` checkpoints are kept. ``container`` also exports a ``model.pt`` like the
    reference's, with the last weights (``generator``) and the EMA (``generator_ema``).
    """

    every: int = setting(200, low=1)
    keep: int = setting(2, low=1)
    container: bool = False


@dataclass(frozen=True)
class SampleSettings:
    """Every how many steps (0: never) the first ``count`` held-out examples become videos.

    They are sampled by ``anchor`` or ``schedule`` with the EMA weights, always from the same
    noise, and scored by ``metrics``.
    """

    every: int = setting(0, low=0)
    count: int = setting(4, low=1)


@dataclass(frozen=True)
class TrainConfig(StagesSettings):
    """Everything that determines one ``train`` run: the root of its ``config.yaml``.

    ``callbacks`` are Lightning's or the user's, by a name each.
    ``stage`` is the network that a flow or shortcut objective trains (None: the detail network for
    shortcuts, else the anchor network). ``anchor`` and ``schedule`` make the samples of the two
    stages; ``sampling=schedules`` takes its steps from the grid of ``schedule.solver``.
    """

    task: Literal["train"] = "train"
    parallel: ParallelSettings = setting(ParallelSettings, incidental=True)
    tracker: TrackerSettings = setting(TrackerSettings, incidental=True)
    metrics: MetricsSettings = setting(MetricsSettings, incidental=True)
    data: DataSettings = setting(DataSettings, **door("pixelwizard.data.batches.Source"))
    stage: Optional[Stage] = None
    objective: ObjectiveSettings = setting(ObjectiveSettings, door=OBJECTIVES)
    optimizer: OptimizerSettings = setting(
        OptimizerSettings, **door("torch.optim.Optimizer", given=("params",))
    )
    trainer: TrainerSettings = setting(TrainerSettings)
    callbacks: dict[str, Part] = setting(
        {}, incidental=True, **door("lightning.pytorch.callbacks.Callback")
    )
    checkpoint: CheckpointSettings = setting(CheckpointSettings, incidental=True)
    samples: SampleSettings = setting(SampleSettings, incidental=True)
    seed: int = setting(0, low=0, high=2**31)

    @property
    def part(self) -> str:
        """The network that is trained: anchor, detail, vae, clip_encoder or video_encoder."""
        return trained_part(self.objective, self.stage)

    @property
    def guided(self) -> bool:
        """Training has no guided passes for ranks to share."""
        return False

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        check_objective(self.objective, self.stage)
        check_channels(self.objective.flow, self.backbone.dit.in_dim)
        check_data(self.data, self.resolution, self.part)
        check_training_ranks(self)
        if self.trainer.gradient_checkpointing and self.part not in STAGES:
            raise ConfigError(
                f"trainer.gradient_checkpointing has no part in objective={self.part}; leave it out"
            )
        if self.samples.every and (self.part not in STAGES or not self.data.held_out):
            raise ConfigError(
                f"samples.every={self.samples.every} needs held-out examples of an anchor or a"
                " detail network; use samples.every=0"
            )


def check_training_ranks(config: TrainConfig) -> None:
    """Ranks of a training share only its batches; raises ConfigError."""
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
    if config.trainer.max_time is not None or config.samples.every:
        key = "samples.every" if config.samples.every else "trainer.max_time"
        raise ConfigError(
            f"{key} is for one rank; with parallel={parallel.mode} leave it out"
            " and set trainer.max_steps"
        )
