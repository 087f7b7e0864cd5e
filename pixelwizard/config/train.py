"""The settings of training and encode: data, optimizer, how long. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Literal, Optional

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import RunSettings, StagesSettings
from pixelwizard.config.geometry import SPATIAL_STRIDE, TEMPORAL_STRIDE, ResolutionSettings
from pixelwizard.config.objective import (
    OBJECTIVES,
    STAGES,
    AdapterSettings,
    ObjectiveSettings,
    Stage,
)
from pixelwizard.config.output import MetricsSettings, TrackerSettings
from pixelwizard.config.parallel import ParallelSettings, check_parallel
from pixelwizard.config.schema import ConfigError, changed, check_pair, check_range, setting, show
from pixelwizard.config.targets import Door, OwnPart, Part, Target, title
from pixelwizard.config.trainer import TrainerSettings

MOST_CLIPS = 100
"""Held-out clips that may be sampled; real ones for the distance of sets come after them."""
FEWEST_FRAMES = 17
"""Frames of a clip for the network of ``tiny-video``, which takes 16."""
ARM_BUDGETS = ("samples", "work")
"""The budgets of arms."""
SHAPES, PIXELS = ("shapes",), ("shapes", "clips")


@dataclass(frozen=True)
class DegradationSettings:
    """The degradation that makes a detail network's anchor from its clip.

    The clip is downscaled by a factor between the two of ``shrink`` (area; none: directly to the
    anchor's size) and resized to the anchor's size (bilinear). A share ``blurred`` of the clips is
    convolved with a gaussian of one of ``kernels`` taps and a ``deviation`` between the two, in
    pixels of the anchor. Defaults as upstream (``model_wan_trainer_upsample_shortcut.py``).
    """

    shrink: List[float] = setting([8.0, 16.0])
    blurred: float = setting(1.0, low=0.0, high=1.0)
    kernels: List[int] = setting([7, 9])
    deviation: List[float] = setting([3.0, 4.3])

    def check(self, key: str) -> None:
        """Pairs in order, odd kernels; raises ConfigError."""
        for name, low, like in (("shrink", 1.0, [8.0, 16.0]), ("deviation", 1e-9, [3.0, 4.3])):
            if (pair := getattr(self, name)) or name != "shrink":
                check_pair(f"{key}.{name}", pair, f"the least and the greatest, like {like}", low)
        for taps in self.kernels:
            if taps < 1 or taps % 2 == 0:
                raise ConfigError(f"{key}.kernels={self.kernels} must be odd; nearest: {taps + 1}")
        if not self.kernels:
            raise ConfigError(f"{key}.kernels=[] must name at least one size, like [7, 9]")


@dataclass(frozen=True)
class DataSettings(OwnPart):
    """The source of training examples.

    ``clips``    videos in ``dir`` with ``captions`` (a table; none: a .txt next to each), read
                 at ``fps``; ``held_out`` of them, drawn by the seed, give the held-out loss;
                 ``workers`` processes decode
    ``latents``  the output of ``pixelwizard encode`` in ``dir``, read by a separate process
    ``shapes``   ``count`` procedural clips, whose latents are kept below ``dir``. Training starts
                 with ``ready`` of them; every example that it uses allows ``growth`` more,
                 for which it waits. ``workers`` processes encode them during training (0: all
                 before it), or read them if all are complete at the start.
                 ``held_out`` examples of other captions give the held-out loss.

    A user's class in place of ``kind`` has examples for a stage's network, of which
    ``held_out``, drawn by the seed, give the held-out loss.

    ``shard`` examples make a file. The autoencoder trains on ``crops`` random crops of each
    procedural clip, ``crop`` pixels wide and high and ``crop_frames`` long, mixed over the
    ``window`` latest clips; a share ``anchor_share`` of the clips has the anchor's size, half of it
    degraded. ``workers`` processes cut the crops; for ``encode`` they read the clips ahead.
    """

    kind: Literal["shapes", "clips", "latents"] = "shapes"
    dir: str = setting("outputs/latents", path=True)
    captions: Optional[str] = setting(None, path=True, only_for=("clips",))
    fps: float = setting(24.0, low=0.1, only_for=("clips",))
    held_out: int = setting(32, low=0, only_for=PIXELS, stays=True)
    workers: int = setting(1, low=0, only_for=PIXELS, incidental=True, stays=True)
    shard: int = setting(32, low=1, only_for=PIXELS)
    degradation: DegradationSettings = setting(DegradationSettings, only_for=PIXELS)
    count: int = setting(1200, low=1, only_for=SHAPES)
    ready: int = setting(320, low=1, only_for=SHAPES)
    growth: float = setting(0.25, low=0.0, only_for=SHAPES)
    crop: int = setting(64, only_for=SHAPES)
    crop_frames: int = setting(9, only_for=SHAPES)
    crops: int = setting(6, low=1, only_for=SHAPES)
    anchor_share: float = setting(0.5, low=0.0, high=1.0, only_for=SHAPES)
    window: int = setting(50, low=1, only_for=SHAPES)


@dataclass(frozen=True)
class EncodeConfig(RunSettings):
    """Everything that determines one ``encode`` run: clips and captions become latents.

    ``stage`` is the network to train on them: clips at the anchor's size, or at the video's
    size with their anchors. ``seed`` draws degradations, starts of clips and the held-out clips.
    """

    task: Literal["encode"] = "encode"
    backbone: BackboneSettings = setting(BackboneSettings, names_run=1)
    resolution: ResolutionSettings = setting(ResolutionSettings, names_run=2)
    data: DataSettings = setting(DataSettings)
    stage: Stage = setting("detail", of_latents=True)
    seed: int = setting(0, low=0, high=2**31)

    @property
    def part(self) -> str:
        """The network to train on the latents."""
        return self.stage

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        if self.data.kind == "latents":
            raise ConfigError("data=latents are encoded already; use data=clips or data=shapes")
        check_data(self.data, self.resolution, self.part)


def check_data(data: DataSettings, size: ResolutionSettings, part: str) -> None:
    """Data that fits the trained network; raises ConfigError."""
    named = title(data.target or data.kind)
    if part not in STAGES and named != "shapes":
        raise ConfigError(f"objective={part} trains on data=shapes alone, not data={named}")
    if data.target is not None:
        return
    if data.kind == "shapes":
        for prefix, clip in (("", size.geometry), ("anchor_", size.anchor_geometry)):
            if clip.width < clip.height:
                raise ConfigError(
                    f"resolution.{prefix}width={clip.width} is too narrow for the shapes of"
                    f" training clips that are {clip.height} high; nearest: {clip.height}"
                )
        check_range("data.held_out", data.held_out, 1)
    if part == "vae":
        check_crops(data, size)


def check_crops(data: DataSettings, size: ResolutionSettings) -> None:
    """Crops on the autoencoder's grid that fit into the clips; raises ConfigError."""
    anchor = size.anchor_geometry
    check_range("data.crop", data.crop, SPATIAL_STRIDE, min(anchor.width, anchor.height))
    check_range("data.crop_frames", data.crop_frames, 1, size.frames)
    side = data.crop // SPATIAL_STRIDE * SPATIAL_STRIDE
    if data.crop != side:
        raise ConfigError(
            f"data.crop={data.crop} is not a multiple of {SPATIAL_STRIDE}; nearest: {side}"
        )
    frames = (data.crop_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
    if data.crop_frames != frames:
        raise ConfigError(f"data.crop_frames={data.crop_frames} is not 4n+1; nearest: {frames}")


@dataclass(frozen=True)
class OptimizerSettings(OwnPart):
    """Muon for the matrices inside the network (``muon_lr=0``: none), AdamW for everything else.

    AdamW alone trains a LoRA.

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
    """The number of steps between checkpoints, with export and held-out loss.

    The last ``keep`` checkpoints are kept. ``container`` also exports a ``model.pt`` like
    upstream's, with the last weights (``generator``) and the EMA (``generator_ema``).
    """

    every: int = setting(200, low=1)
    keep: int = setting(2, low=1)
    container: bool = False


@dataclass(frozen=True)
class SampleSettings:
    """The number of steps (0: never) between videos of the first ``count`` held-out examples.

    They are sampled by ``anchor`` or ``schedule`` with the EMA weights, always from the same
    noise, and scored by ``metrics``.
    """

    every: int = setting(0, low=0)
    count: int = setting(4, low=1)


@dataclass(frozen=True)
class ComparisonSettings:
    """A training run as a variant of a comparison of few-step objectives; only with ``budget``.

    ``samples``  it sees as many clips as every other variant: ``trainer.max_steps`` steps
    ``work``     it makes as many passes as flow matching does in these steps, a pass with gradient
                 counting as three
    ``start``    it trains the network that all variants start from: flow matching for
                 ``start_steps`` steps, with every step size treated as 0

    ``start`` is the folder of that run (None: ``start`` next to the variant's folder).
    Guidance is trained into every variant at the scale of the schedule, so it is sampled without.

    Each of ``clips`` held-out clips of the shapes is sampled with every number of ``passes``, and
    decoded for those of ``decoded``. ``against`` is the variant that differences are from.
    """

    budget: Optional[Literal["start", "samples", "work"]] = None
    start: Optional[str] = setting(None, path=True)
    start_steps: int = setting(300, low=1)
    clips: int = setting(4, low=2, high=MOST_CLIPS, incidental=True)
    passes: List[int] = setting([1, 2, 4, 8, 16], low=1, high=1000, incidental=True)
    decoded: List[int] = setting([4], incidental=True)
    against: str = setting("shortcut", incidental=True)

    def check(self, key: str) -> None:
        """Passes, those decoded among them, nothing without a budget; raises ConfigError."""
        if self.budget is None:
            for name, value in changed(self).items():
                raise ConfigError(
                    f"{key}.{name}={show(value)} has no effect without {key}.budget; set"
                    f" {key}.budget=samples or leave it out"
                )
        if not self.passes:
            raise ConfigError(f"{key}.passes=[] must name at least one number, like [1, 2, 4]")
        for count in self.decoded:
            if count not in self.passes:
                near = min(self.passes, key=lambda known: abs(known - count))
                raise ConfigError(
                    f"{key}.decoded={self.decoded} must be among {key}.passes={self.passes};"
                    f" nearest: {near}"
                )


@dataclass(frozen=True)
class TrainConfig(StagesSettings):
    """Everything that determines one ``train`` run: the root of its ``config.yaml``.

    ``callbacks`` are Lightning's or the user's, by name.
    ``stage`` is the network that a flow or shortcut objective trains (None: the detail network for
    shortcuts, else the anchor network). ``anchor`` and ``schedule`` make the samples of the two
    stages; ``sampling=schedules`` takes its steps from the grid of ``schedule.solver``.
    """

    task: Literal["train"] = "train"
    parallel: ParallelSettings = setting(ParallelSettings, incidental=True)
    tracker: TrackerSettings = setting(TrackerSettings, incidental=True)
    metrics: MetricsSettings = setting(MetricsSettings, incidental=True)
    data: DataSettings = setting(DataSettings, door=Door("pixelwizard.data.batches.Source"))
    stage: Optional[Stage] = None
    objective: ObjectiveSettings = setting(ObjectiveSettings, door=OBJECTIVES)
    optimizer: OptimizerSettings = setting(
        OptimizerSettings, door=Door("torch.optim.Optimizer", given=("params",))
    )
    adapter: AdapterSettings = setting(AdapterSettings)
    trainer: TrainerSettings = setting(TrainerSettings)
    callbacks: dict[str, Part] = setting(
        {}, incidental=True, door=Door("lightning.pytorch.callbacks.Callback")
    )
    checkpoint: CheckpointSettings = setting(CheckpointSettings, incidental=True)
    samples: SampleSettings = setting(SampleSettings, incidental=True)
    comparison: ComparisonSettings = setting(ComparisonSettings, later=True)
    seed: int = setting(0, low=0, high=2**31)

    @property
    def part(self) -> str:
        """The network that is trained: anchor, detail, vae, clip_encoder or video_encoder."""
        return self.objective.trained_part(self.stage)

    @property
    def guided(self) -> bool:
        """Training has no guided passes for ranks to share."""
        return False

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        self.backbone.refuse_quantised("train")
        self.objective.check_stage(self.stage)
        self.objective.flow.check_channels(self.backbone.dit.in_dim)
        if self.objective.flow.first_frame and self.resolution.frames == 1:
            raise ConfigError(
                f"objective.flow.first_frame={self.objective.flow.first_frame} leaves nothing to"
                " learn of clips of resolution.frames=1; use more frames, nearest: 5"
            )
        check_data(self.data, self.resolution, self.part)
        check_training_ranks(self)
        self.adapter.check_network(self.part, self.objective, self.checkpoint.container)
        if self.trainer.gradient_checkpointing and self.part not in STAGES:
            raise ConfigError(
                f"trainer.gradient_checkpointing is not used by objective={self.part}; leave it out"
            )
        if self.samples.every and (self.part not in STAGES or not self.data.held_out):
            raise ConfigError(
                f"samples.every={self.samples.every} needs held-out examples of an anchor or a"
                " detail network; use samples.every=0"
            )
        for name, part in self.callbacks.items():
            if isinstance(part, Target) and part.path.endswith(".GradientAccumulationScheduler"):
                raise ConfigError(
                    f"callbacks.{name}={part.path} changes what a step is by epochs, and a training"
                    " has one epoch; use trainer.accumulate_grad_batches"
                )
        check_comparison(self)


def check_comparison(config: TrainConfig) -> None:
    """An arm of a comparison trains a whole detail network on the shapes; raises ConfigError."""
    if config.comparison.budget is None:
        return
    data, given = config.data, f"comparison.budget={config.comparison.budget}"
    if config.part != "detail":
        raise ConfigError(f"{given} is for the detail network, not for {config.part}; stage=detail")
    if data.target is not None or data.kind != "shapes":
        raise ConfigError(
            f"{given} needs data=shapes, not data={title(data.target or data.kind)}: it measures on"
            " clips of the shapes that no training sees, and judges what they show"
        )
    if config.adapter.used:
        raise ConfigError(f"{given} compares whole networks; use adapter=none")
    if config.comparison.decoded and config.resolution.frames < FEWEST_FRAMES:
        raise ConfigError(
            f"resolution.frames={config.resolution.frames} are too few for {given}, which needs"
            f" {FEWEST_FRAMES}; use these, or comparison.decoded=[]"
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
