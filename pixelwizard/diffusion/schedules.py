"""Step-skip schedules: data computed by plain arithmetic, shown as a table or a plot. No torch.

A step starts at its ``sigma`` and ends where the next one starts, the last one at 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.objective import ShortcutSettings
from pixelwizard.config.schema import ConfigError, check, to_plain
from pixelwizard.config.targets import Part, door_of, title
from pixelwizard.io.files import atomic
from pixelwizard.io.terminal import aligned

if TYPE_CHECKING:
    from torch import Tensor

FloatOrTensor = TypeVar("FloatOrTensor", float, "Tensor")
TRAIN_TIMESTEPS = 1000
NO_STEP = 1e-3
"""A start that is closer than this to a step's sigma takes the place of that step."""
SOLVER, SKIP = door_of(SamplerSettings, "solver"), door_of(SamplerSettings, "skip")


@dataclass(frozen=True)
class Step:
    """Where a step starts, and the timestep and step size that the network gets there.

    ``timestep`` is the network's time in [0, 1000]; ``dt`` the step size in timesteps, ``None``
    for a network without step-size conditioning; ``guided`` asks for classifier-free guidance;
    ``evaluations`` is how often the solver evaluates the network; ``computed`` is False for a
    skipped step and ``None`` where that is decided while sampling.
    """

    sigma: float
    timestep: float
    dt: int | None
    guided: bool
    evaluations: int = 1
    computed: bool | None = True

    @property
    def nfe(self) -> int:
        """Network passes of one video in this step, at most: two per evaluation if guided."""
        return 0 if self.computed is False else self.evaluations * (2 if self.guided else 1)


@dataclass(frozen=True)
class Schedule:
    """The steps of one sampling run, from noise to data, with its solver and skip rule."""

    solver: Part
    steps: tuple[Step, ...]
    skip: Part = "none"

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The start of every step, then the end of the last: len(steps) + 1 values."""
        return (*(step.sigma for step in self.steps), 0.0)

    @property
    def is_fixed(self) -> bool:
        """Whether it is known beforehand which steps are skipped."""
        return all(step.computed is not None for step in self.steps)

    @property
    def nfe(self) -> int:
        """Number of function evaluations: network passes of one video, at most."""
        return sum(step.nfe for step in self.steps)


def make_schedule(
    settings: SamplerSettings, shift: float, key: str = "schedule", start: float | None = None
) -> Schedule:
    """The schedule of one stage; ``shift`` is the resolution's, used unless the settings have one.

    ``key`` is the stage's, for messages. With ``start``, a sigma, only the part of the schedule
    from there on is made. Raises ValueError for settings outside their ranges
    (``SamplerSettings.check``), for a solver that cannot be made and a skip that does not fit.
    """
    check(settings, key)
    solver = SOLVER.make(settings.solver, f"{key}.solver")
    if settings.timesteps is not None:
        timesteps = [float(t) for t in settings.timesteps]
        sigmas = [t / TRAIN_TIMESTEPS for t in timesteps]
    else:
        sigmas = shifted_grid(solver.first_sigma, settings.steps, settings.shift or shift)
        timesteps = [float(int(sigma * TRAIN_TIMESTEPS)) for sigma in sigmas]
    guided = [
        settings.guided_steps is None or i in settings.guided_steps for i in range(len(sigmas))
    ]
    if start is not None:
        first = max(0, sum(sigma > start - NO_STEP for sigma in sigmas) - 1)
        sigmas, guided = [start, *sigmas[first + 1 :]], guided[first:]
        timesteps = [float(int(start * TRAIN_TIMESTEPS)), *timesteps[first + 1 :]]
    count = len(sigmas)
    sizes: list[int | None] = [None] * count
    if settings.step_sizes == "whole":
        sizes = [even_step(round(time)) for time in timesteps]
    elif settings.step_sizes != "none":
        sizes = list(step_sizes(timesteps, snapped=settings.step_sizes == "snapped"))
    computed = _planned(settings.skip, count, f"{key}.skip")
    steps = (
        Step(
            sigma=sigmas[index],
            timestep=timesteps[index],
            dt=sizes[index],
            guided=settings.guidance != 1 and guided[index],
            evaluations=_evaluations(solver, index, count, key),
            computed=computed[index],
        )
        for index in range(count)
    )
    return Schedule(settings.solver, tuple(steps), settings.skip)


def _evaluations(solver: Any, index: int, count: int, key: str) -> int:
    """How often a step evaluates the network. Raises ConfigError where its class does not say."""
    place = f"{key}.solver: {type(solver).__name__}.evaluations()"
    try:
        said = solver.evaluations(index, count)
    except Exception as error:
        raise ConfigError(_failed(place, error)) from error
    if not isinstance(said, int) or said < 0:
        raise ConfigError(f"{place} of step {index} is {said!r}; it must be a whole number")
    return said


def _failed(place: str, error: Exception) -> str:
    return f"{place} failed ({type(error).__name__}: {' '.join(str(error).split())})"


def _planned(skip: Part, steps: int, key: str) -> list[bool | None]:
    """Which steps evaluate the network, as far as that is known beforehand."""
    if skip == "none":
        return [True] * steps
    made = SKIP.make(skip, key)
    try:
        planned = list(made.planned(steps))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    except Exception as error:
        raise ConfigError(_failed(f"{key}: {type(made).__name__}.planned()", error)) from error
    if len(planned) != steps or planned[0] is not True:
        raise ConfigError(
            f"{key}: {type(made).__name__}.planned({steps}) must say of {steps} steps whether they"
            " ask, the first of them True"
        )
    return planned


def shifted_grid(first: float, steps: int, shift: float) -> list[float]:
    """The starting sigmas of ``steps`` even steps from ``first`` to 0, shifted towards noise.

    In the order of operations of numpy's ``linspace`` and of Wan2.2's ``fm_solvers.py``, bit for
    bit: timesteps are cut down to whole numbers.
    """
    return [shift_sigma(first - index * (first / steps), shift) for index in range(steps)]


def shift_sigma(sigma: FloatOrTensor, shift: float) -> FloatOrTensor:
    """Moves sigma in [0, 1] towards noise: s sigma / (1 + (s - 1) sigma); 0 and 1 stay."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def grid_version(settings: SamplerSettings, shift: float) -> int:
    """2 where version 1, in another order of operations, cut a timestep down to one less."""
    if settings.timesteps is not None:
        return 1
    first = SOLVER.make(settings.solver, "solver").first_sigma
    steps, shift = settings.steps, settings.shift or shift
    new = shifted_grid(first, steps, shift)
    old = (shift_sigma(round(first, 3) * (1 - index / steps), shift) for index in range(steps))
    differ = (
        int(a * TRAIN_TIMESTEPS) != int(b * TRAIN_TIMESTEPS) for a, b in zip(old, new, strict=True)
    )
    return 2 if any(differ) else 1


def step_sizes(timesteps: list[float], snapped: bool = False) -> list[int]:
    """dt of every step, the last one against 0: rounded, even, at least 2.

    ``snapped`` takes the nearest step size seen in training instead, of two as near the larger.
    """
    raw = [
        even_step(round(abs(start - end)))
        for start, end in zip(timesteps, [*timesteps[1:], 0.0], strict=True)
    ]
    if not snapped:
        return raw
    rule = ShortcutSettings()  # upstream's training
    trained = {size for anchor in rule.anchors for size in halved(anchor, rule.halvings)}
    largest_first = sorted(trained, reverse=True)
    return [min(largest_first, key=lambda size: abs(size - dt)) for dt in raw]


def halved(size: int, halvings: int) -> list[int]:
    """``size`` halved 0 to ``halvings`` - 1 times, each even."""
    return [even_step(size // 2**k) for k in range(halvings)]


def even_step(size: int) -> int:
    """The even number at or below ``size``, at least 2, so that its half is whole."""
    return max(2, size // 2 * 2)


MOST_ROWS = 16
"""Longer schedules are shown by their first and last rows; the JSON has all of them."""
COLOURS = ("#0072B2", "#D55E00")
"""Blue and vermilion of Okabe and Ito's palette, told apart by the colour-blind and in grey."""


@dataclass(frozen=True)
class StageSchedule:
    """What one stage (anchor, detail) does: its steps and the scale of its guided ones."""

    stage: str
    guidance: float
    schedule: Schedule

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "solver": to_plain(self.schedule.solver),
            "skip": to_plain(self.schedule.skip),
            "guidance": self.guidance,
            "nfe": self.schedule.nfe,
            "steps": [asdict(step) for step in self.schedule.steps],
        }


def as_taken(stage: dict[str, Any], skipped: Collection[int]) -> dict[str, Any]:
    """``StageSchedule.to_json`` of a run that skipped these steps: what was computed, and NFE."""
    steps = [{**step, "computed": i not in skipped} for i, step in enumerate(stage["steps"])]
    passes = (step["evaluations"] * (1 + step["guided"]) * step["computed"] for step in steps)
    return {**stage, "nfe": sum(passes), "steps": steps}


def stage_schedules(
    anchor: SamplerSettings | None,
    detail: SamplerSettings,
    size: ResolutionSettings,
    start: float | None = None,
) -> list[StageSchedule]:
    """Both stages, in the order they run; the first is absent where a clip is refined.

    ``start``: the sigma at which the detail stage begins (None: at its schedule's start). Raises
    ConfigError for an impossible schedule.
    """
    detailed = make_schedule(detail, size.shift, "schedule", start)
    stages = [StageSchedule("detail", detail.guidance, detailed)]
    if anchor is not None:
        schedule = make_schedule(anchor, size.anchor_shift, "anchor")
        stages.insert(0, StageSchedule("anchor", anchor.guidance, schedule))
    return stages


def schedule_table(stages: Sequence[StageSchedule]) -> str:
    """A block of lines per stage: sigma, timestep, dt, guidance and NFE of every step."""
    blocks = []
    for stage in stages:
        count = len(stage.schedule.steps)
        head = f"{stage.stage}: {_in_short(stage.schedule)}"
        rows: list[tuple[str, ...]] = [("step", "sigma", "timestep", "dt", "guidance", "NFE")]
        steps = enumerate(stage.schedule.steps)
        rows += [_row(index, step, stage.guidance) for index, step in steps]
        lines = aligned(rows)
        if count > MOST_ROWS:
            half = MOST_ROWS // 2
            lines = [*lines[: half + 1], f"...  ({count - 2 * half} more)", *lines[-half:]]
        blocks.append("\n".join([head, *lines]))
    return "\n\n".join(blocks)


def draw_schedules(stages: Sequence[StageSchedule], path: Path) -> None:
    """Write a PNG: every step from its sigma to the next, against NFE, labelled with its dt.

    Steps that are skipped, or may be, are hollow.
    Raises ConfigError if the file cannot be written.
    """
    from matplotlib.figure import Figure  # half a second that a table need not pay

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for stage, colour, marker in zip(stages, COLOURS, "so", strict=True):
        sigmas, nfe = stage.schedule.sigmas, [0]
        for step in stage.schedule.steps:
            nfe.append(nfe[-1] + step.nfe)
        label = f"{stage.stage}: {_in_short(stage.schedule)}"
        axes.step(nfe, sigmas, where="post", color=colour, lw=1.2, alpha=0.6)
        axes.plot(nfe, sigmas, marker, color=colour, ms=5, label=label)
        taken = list(zip(nfe, stage.schedule.steps, strict=False))
        skipped = [(x, step.sigma) for x, step in taken if not step.computed]
        if skipped:
            axes.plot(*zip(*skipped, strict=True), marker, color=colour, mfc="white", ls="", ms=5)
        for x, step in taken:
            if step.dt is not None:
                place = {"xytext": (5, 3), "textcoords": "offset points", "fontsize": 8}
                axes.annotate(f"dt {step.dt}", (x, step.sigma), **place)  # type: ignore[arg-type]
    axes.set_xlabel("network passes (NFE)")
    axes.set_ylabel("sigma (1 = noise, 0 = data)")
    axes.set_ylim(-0.03, 1.06)
    axes.set_xscale("symlog", linthresh=8, base=2)
    axes.set_xlim(left=-0.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    try:
        with atomic(path) as part:
            figure.savefig(part, format="png")
    except OSError as error:
        raise ConfigError(f"plot={path} cannot be written: {error.strerror}") from None


def _in_short(schedule: Schedule) -> str:
    """Solver, skip rule, steps and NFE."""
    count, skipped = len(schedule.steps), sum(s.computed is False for s in schedule.steps)
    parts = [title(schedule.solver), f"{count} step{'s' * (count > 1)}"]
    if schedule.skip != "none":
        parts.append(f"skip {title(schedule.skip)}" + (f" ({skipped} skipped)" if skipped else ""))
    return ", ".join([*parts, f"{'' if schedule.is_fixed else 'at most '}{schedule.nfe} NFE"])


def _row(index: int, step: Step, guidance: float) -> tuple[str, ...]:
    return (
        str(index),
        f"{step.sigma:.4f}",
        f"{step.timestep:g}",
        "-" if step.dt is None else str(step.dt),
        f"{guidance:g}" if step.guided else "-",
        {True: str(step.nfe), False: "skipped", None: f"0 or {step.nfe}"}[step.computed],
    )
