"""The settings of the tasks that sample, and those of plan, bench and replay. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import List, Literal, Optional, Tuple, get_args

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.objective import OBJECTIVES, AdapterSettings, ObjectiveSettings, Stage
from pixelwizard.config.output import (
    SCORED_FRAMES,
    DecodeSettings,
    MetricsSettings,
    TrackerSettings,
    VideoSettings,
)
from pixelwizard.config.parallel import ParallelSettings, check_parallel
from pixelwizard.config.schema import ConfigError, check_range, setting
from pixelwizard.config.targets import Door, Part, title
from pixelwizard.config.trainer import PredictionSettings

DIFFUSION = "pixelwizard.diffusion"
NOISE = "noise"
StepSizes = Literal["none", "raw", "snapped", "whole"]
STEP_SIZES: Tuple[str, ...] = get_args(StepSizes)


@dataclass(frozen=True)
class RefineSettings:
    """The refinement of given clips: a clip at the anchor's size takes the place of the anchor.

    ``start`` is ``noise``, as in the method, or a sigma: the clip is also enlarged and encoded at
    the video's size and noised to that level, and the rest of the schedule runs from there.
    ``anchor_noise`` is the level of gaussian noise on the anchor's latent, of unit variance
    (training: up to 0.1, in half of the samples). ``agree`` is what the decoded video keeps of the
    clip: its ``colour``, that is its slow variations; the whole ``clip`` at the clip's size, for
    sharp and clean clips; or nothing (``none``). ``auto`` measures each clip and takes ``clip`` or
    ``colour``.
    """

    start: str = NOISE
    anchor_noise: float = setting(0.0, low=0.0, high=1.0)
    agree: Literal["auto", "none", "colour", "clip"] = "auto"

    @property
    def sigma(self) -> Optional[float]:
        """Where the schedule is entered; None: at its start, from noise alone."""
        return None if self.start == NOISE else float(self.start)

    def check(self, key: str) -> None:
        """``noise`` or a number between 0 and 1; raises ConfigError."""
        try:
            fits = self.sigma is None or 0 < self.sigma < 1
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(
                f"{key}.start={self.start} must be noise, or a sigma between 0 (the clip itself)"
                " and 1, like 0.85"
            )


@dataclass(frozen=True)
class ImageSettings:
    """Where a given picture is the first latent frame: in the anchor, as in Wan2.2.

    ``detail``: also in the detail stage, at the video's size. PixelWizard's detail network was not
    trained for this; it always gets the anchor.
    """

    detail: bool = False


@dataclass(frozen=True)
class SamplerSettings:
    """The sampler of one stage, which integrates its velocity field from noise to latent.

    ``timesteps`` (1000 = noise, strictly decreasing) replaces the ``steps`` and the ``shift`` of
    the solver's own grid. ``shift=None`` takes the shift of the resolution. ``guided_steps`` are
    the 0-based steps that run classifier-free guidance (``None``: all of them). ``skip`` decides
    which steps evaluate the network. ``step_sizes`` is the step-size conditioning:
    ``none``, ``raw``, ``snapped`` to the step sizes seen in training, or ``whole``: every step is
    conditioned on ending at 0, for networks trained only for that (consistency).
    """

    solver: Part = setting(
        "unipc", door=Door(f"{DIFFUSION}.solvers.base.Solver", f"{DIFFUSION}.solvers")
    )
    skip: Part = setting(
        "none",
        later=True,
        door=Door(f"{DIFFUSION}.skip.base.Skip", f"{DIFFUSION}.skip", words=("none",)),
    )
    steps: int = setting(50, low=1, high=1000)
    timesteps: Optional[List[float]] = None
    shift: Optional[float] = setting(None, low=0.01)
    guidance: float = setting(5.0, low=0.0)
    guided_steps: Optional[List[int]] = None
    step_sizes: StepSizes = "none"

    def first(self, count: int) -> SamplerSettings:
        """The same with at most ``count`` steps, none skipped, guided where its first steps are."""
        times, guided = self.timesteps, self.guided_steps
        return replace(
            self,
            skip="none",
            steps=min(self.steps, count),
            timesteps=None if times is None else times[:count],
            guided_steps=None if guided is None else [step for step in guided if step < count],
        )

    def check(self, key: str) -> None:
        """Decreasing timesteps inside (0, 1000], existing guided steps; raises ConfigError.

        ``key`` is the stage's: ``anchor`` or ``schedule``.
        """
        if self.timesteps is not None:
            _check_timesteps(self.timesteps, f"{key}.timesteps")
            if self.shift is not None:
                raise ConfigError(
                    f"{key}.shift={self.shift} would not change {key}.timesteps; leave one out"
                )
        steps = len(self.timesteps or range(self.steps))
        for step in self.guided_steps or []:
            check_range(f"{key}.guided_steps", step, 0, steps - 1)
        if (guided := self.guided_steps) and self.guidance == 1:
            raise ConfigError(f"{key}.guided_steps={guided} needs a {key}.guidance other than 1")


def _check_timesteps(times: List[float], key: str) -> None:
    """At least one timestep, strictly decreasing, all inside (0, 1000]."""
    like = "like [999, 942, 845, 646]"
    if not times:
        raise ConfigError(f"{key}=[] has no step; give at least one, {like}")
    for time in times:
        if not 0 < time <= 1000:
            raise ConfigError(
                f"{key}={times}: {time:g} is outside 0 (data, where the last step ends by itself)"
                f" to 1000 (noise); nearest: {min(1000, max(1, time)):g}"
            )
    for before, after in zip(times, times[1:], strict=False):
        if after >= before:
            raise ConfigError(
                f"{key}={times} must decrease strictly; {after:g} comes after {before:g}; nearest:"
                f" {sorted(set(times), reverse=True)}"
            )


ATTENTION = Door("pixelwizard.models.attention.base.Attention", "pixelwizard.models.attention")


@dataclass(frozen=True)
class RunSettings:
    """The base of the root settings of tasks with a run folder.

    ``search`` are the folders where the modules of users' classes were found, ``replaced``
    names shipped options that a user's file replaced; composing fills both in.
    ``verbose`` are loggers whose debug output goes to ``run.log``; ``root`` means all of them.
    """

    run_dir: str = field(metadata={"path": True, "incidental": True})
    task: str = ""
    search: List[str] = setting([], incidental=True)
    replaced: List[str] = setting([], incidental=True)
    verbose: List[str] = setting([], incidental=True)


@dataclass(frozen=True)
class StagesSettings(RunSettings):
    """The base of tasks with both stages; ``attention`` is that of both transformers.

    ``compile``: one kernel for the elementwise operations between two matrix products; ``auto`` on
    a GPU, ``on`` also on a CPU, where compiling takes about a minute and saves a few percent.
    """

    backbone: BackboneSettings = setting(BackboneSettings, names_run=1)
    resolution: ResolutionSettings = setting(ResolutionSettings, names_run=2)
    anchor: SamplerSettings = setting(SamplerSettings)
    schedule: SamplerSettings = setting(SamplerSettings, names_run=3)
    attention: Part = setting("exact", later=True, door=ATTENTION)
    compile: Literal["auto", "on", "off"] = setting("auto", incidental=True)


@dataclass(frozen=True)
class MemorySettings:
    """Where the weights of a stage are, and how much device memory a stage may use.

    ``resident``: on the device while the stage runs. ``offload``: the same, but kept in host memory
    between groups of prompts instead of being read again. ``stream``: the blocks of a transformer
    stay in host memory and are copied to the device one by one. ``auto``: resident if it fits, else
    stream. ``budget_gb``: 1e9 bytes (None: the device's memory). ``chunk``: tokens that go through
    a layer together (None: the plan chooses). ``residual``: the type of the residual stream.
    """

    mode: Literal["auto", "resident", "offload", "stream"] = setting("auto", incidental=True)
    budget_gb: Optional[float] = setting(None, low=1.0, incidental=True)
    chunk: Optional[int] = setting(None, low=64, incidental=True)
    residual: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class SamplingSettings(StagesSettings):
    """The base of tasks that sample or plan it: placement on devices.

    ``from_video`` are the clips of ``--video``, ``videos`` is a folder of clips: each is refined by
    the settings of ``refine``, without an anchor stage. ``from_image`` are the pictures of
    ``--image``: a video begins with each.
    """

    memory: MemorySettings = setting(MemorySettings)
    parallel: ParallelSettings = setting(ParallelSettings, incidental=True)
    decode: DecodeSettings = setting(DecodeSettings)
    video: VideoSettings = setting(VideoSettings)
    from_video: List[str] = setting([], path=True, of_sample=True)
    videos: Optional[str] = setting(None, path=True, of_sample=True)
    refine: RefineSettings = setting(RefineSettings)
    from_image: List[str] = setting([], path=True, of_sample=True)
    image: ImageSettings = setting(ImageSettings)

    @property
    def guided(self) -> bool:
        """Whether any step of the two stages is guided."""
        return any(s.guidance != 1 and s.guided_steps != [] for s in (self.anchor, self.schedule))

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
        if self.parallel.shard != "none" and self.backbone.quantize is not None:
            raise ConfigError(
                f"backbone.quantize={self.backbone.quantize} is for whole weights, not for slices;"
                f" leave it out or use parallel.shard=none, not {self.parallel.shard}"
            )
        self.decode.check_tiles(self.resolution.geometry)


@dataclass(frozen=True)
class StoreSettings:
    """The folder that keeps the stages' results between runs."""

    dir: str = setting("outputs/store", path=True)


@dataclass(frozen=True)
class GenerateConfig(SamplingSettings):
    """Everything that determines one ``generate`` run: the root of ``config.yaml``.

    ``prompt`` holds the texts of ``--prompt``, ``prompts`` names a prompt file; with neither, the
    built-in demo prompts run. ``negative_prompt=None`` takes the backbone's. ``group_size`` prompts
    pass through all stages together before the next group starts. ``reference`` is a folder of real
    videos that the finished ones are compared with. ``callbacks`` are Lightning's or the user's.
    """

    task: Literal["generate"] = "generate"
    tracker: TrackerSettings = setting(TrackerSettings, incidental=True)
    metrics: MetricsSettings = setting(MetricsSettings, incidental=True)
    store: StoreSettings = setting(StoreSettings, incidental=True)
    prompt: List[str] = setting([], of_sample=True)
    prompts: Optional[str] = setting(None, path=True, of_sample=True)
    negative_prompt: Optional[str] = None
    seed: int = setting(0, low=0, high=2**62, of_sample=True)
    trainer: PredictionSettings = setting(PredictionSettings, incidental=True)
    callbacks: dict[str, Part] = setting(
        {}, incidental=True, door=Door("lightning.pytorch.callbacks.Callback")
    )
    group_size: int = setting(8, low=1, incidental=True)
    save_anchor: bool = setting(False, incidental=True)
    reference: Optional[str] = setting(None, path=True, incidental=True)

    @property
    def scored(self) -> bool:
        """Whether the videos are scored: short ones only if scores are asked for."""
        asked = self.metrics.asked or self.reference
        return self.metrics.enabled and bool(asked or self.resolution.frames >= SCORED_FRAMES)

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        super().check()
        self.metrics.check_asked(self.reference, self.resolution.frames)
        if self.prompts is not None:
            given = {"--prompt": self.prompt, "--video": self.from_video, "videos": self.videos}
            given["--image"] = self.from_image
            for name in (name for name, values in given.items() if values):
                raise ConfigError(f"{name} and prompts=FILE exclude each other; leave one out")
        if self.from_image and (self.from_video or self.videos):
            raise ConfigError(
                "--image and --video exclude each other: a video either begins with a picture or"
                " refines a clip; leave one out, or give both kinds in prompts=FILE, a row each"
            )


@dataclass(frozen=True)
class PlanConfig(SamplingSettings):
    """The settings that determine time and memory of a run: the root of ``plan``.

    ``plot`` is a PNG file for the picture of both schedules. ``train`` plans the training of that
    network by an ``objective``, or of a LoRA of it (``adapter``), instead of a run, on each number
    of ``gpus``. ``skip=search`` samples the demo prompts here and finds which steps of both
    samplers to skip.
    ``power`` are folders as for ``compare``: the plan says which differences in their scores ``n``
    pairs of prompt and seed can detect, for the scores of ``metrics`` or those in ``scores``.
    """

    task: Literal["plan"] = "plan"
    device: Literal["auto", "h200", "h100", "a100", "rtx5090", "rtx4090"] = "auto"
    plot: Optional[str] = setting(None, path=True)
    train: Optional[Stage] = None
    power: List[str] = setting([], path=True)
    n: Optional[int] = setting(None, low=2)
    metrics: MetricsSettings = setting(MetricsSettings)
    scores: List[str] = setting([])
    objective: ObjectiveSettings = setting(ObjectiveSettings, door=OBJECTIVES)
    gpus: List[int] = setting([1, 8], low=1)
    adapter: AdapterSettings = setting(AdapterSettings)
    skip: Optional[Literal["search"]] = None
    format: Literal["text", "json"] = setting("text", incidental=True)

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        super().check()
        if self.skip is not None:
            given = {"train": self.train, "plot": self.plot, "device": self.device}
            given["parallel"] = self.parallel.mode
            left = {"train": None, "plot": None, "device": "auto", "parallel": "single"}
            if other := next((name for name in left if given[name] != left[name]), None):
                raise ConfigError(
                    f"skip=search samples in this process; leave {other}={given[other]} out"
                )
        self._check_power()
        if self.train is not None:
            self.backbone.refuse_quantised("train")
            self.objective.check_stage(self.train)
        of_training = {
            f"gpus={self.gpus}": self.gpus != [1, 8],
            "adapter=lora": self.adapter.used,
            f"objective={title(self.objective.part)}": self.objective.part != "flow",
        }
        for word, is_set in of_training.items():
            if is_set and self.train is None:
                raise ConfigError(f"{word} is for train=anchor|detail; leave it out")
        if self.plot is not None and not self.plot.endswith(".png"):
            raise ConfigError(f"plot={self.plot} must end in .png; nearest: {self.plot}.png")

    def _check_power(self) -> None:
        """Scores are planned from runs; raises ConfigError."""
        given = {"n": self.n, "metrics": self.metrics.asked, "scores": self.scores}
        if not self.metrics.enabled:
            raise ConfigError("metrics=none leaves nothing to plan; nearest: metrics=auto")
        if self.scores and self.metrics.asked:
            raise ConfigError("metrics= and scores= both choose what is planned; leave one out")
        if not self.power and (key := next((name for name in given if given[name]), None)):
            raise ConfigError(
                f"{key}= needs runs that show how much scores vary; name some: pixelwizard plan"
                f" RUNS {key}=..."
            )
