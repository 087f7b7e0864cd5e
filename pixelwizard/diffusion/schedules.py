"""Step-skip schedules: a schedule is data, computed by plain arithmetic. No torch here.

A step starts at its ``sigma`` and ends where the next one starts, the last one at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.objective import ShortcutSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.targets import Part, door_of

TRAIN_TIMESTEPS = 1000
SOLVER, SKIP = door_of(SamplerSettings, "solver"), door_of(SamplerSettings, "skip")


@dataclass(frozen=True)
class Step:
    """Where a step starts, and the timestep and step size that the network gets there.

    ``timestep`` is the network's time in [0, 1000]; ``dt`` the step size in timesteps, ``None``
    for a network without step-size conditioning; ``guided`` asks for classifier-free guidance;
    ``evaluations`` is how often the solver asks; ``computed`` is False for a skipped step and
    ``None`` where that is decided while sampling.
    """

    sigma: float
    timestep: float
    dt: int | None
    guided: bool
    evaluations: int = 1
    computed: bool | None = True

    @property
    def nfe(self) -> int:
        """Network passes of one video in this step, at most: two an evaluation if it is guided."""
        return 0 if self.computed is False else self.evaluations * (2 if self.guided else 1)


@dataclass(frozen=True)
class Schedule:
    """The steps of one sampling run, from noise to data, and what takes and skips them."""

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


def make_schedule(settings: SamplerSettings, shift: float, key: str = "schedule") -> Schedule:
    """The schedule of one stage; ``shift`` is the resolution's, used unless the settings have one.

    ``key`` is the stage's, for messages. Raises ValueError for settings outside their ranges
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
    count = len(sigmas)
    sizes: list[int | None] = [None] * count
    if settings.step_sizes != "none":
        sizes = list(step_sizes(timesteps, snapped=settings.step_sizes == "snapped"))
    computed = _planned(settings.skip, count, f"{key}.skip")
    guided = range(count) if settings.guided_steps is None else settings.guided_steps
    steps = (
        Step(
            sigma=sigmas[index],
            timestep=timesteps[index],
            dt=sizes[index],
            guided=settings.guidance != 1 and index in guided,
            evaluations=solver.evaluations(index, count),
            computed=computed[index],
        )
        for index in range(count)
    )
    return Schedule(settings.solver, tuple(steps), settings.skip)


def _planned(skip: Part, steps: int, key: str) -> list[bool | None]:
    """Which steps ask the network, as far as that is known beforehand."""
    made = SKIP.make(skip, key)
    try:
        planned = list(made.planned(steps))
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
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
    return [_shifted(first - index * (first / steps), shift) for index in range(steps)]


def _shifted(sigma: float, shift: float) -> float:
    return shift * sigma / (1 + (shift - 1) * sigma)


def grid_version(settings: SamplerSettings, shift: float) -> int:
    """2 where version 1, in another order of operations, cut a timestep down to one less."""
    if settings.timesteps is not None:
        return 1
    first = SOLVER.make(settings.solver, "solver").first_sigma
    steps, shift = settings.steps, settings.shift or shift
    new = shifted_grid(first, steps, shift)
    old = (_shifted(round(first, 3) * (1 - index / steps), shift) for index in range(steps))
    differ = (
        int(a * TRAIN_TIMESTEPS) != int(b * TRAIN_TIMESTEPS) for a, b in zip(old, new, strict=True)
    )
    return 2 if any(differ) else 1


def step_sizes(timesteps: list[float], snapped: bool = False) -> list[int]:
    """dt of every step, the last one against 0: rounded, even, at least 2.

    ``snapped`` takes the nearest step size seen in training instead, the larger of two as near.
    """
    raw = [
        even_step(round(abs(start - end)))
        for start, end in zip(timesteps, [*timesteps[1:], 0.0], strict=True)
    ]
    if not snapped:
        return raw
    trained = sorted(trained_step_sizes(), reverse=True)
    return [min(trained, key=lambda size: abs(size - dt)) for dt in raw]


def trained_step_sizes() -> set[int]:
    """Every step size of the reference's shortcut training."""
    rule = ShortcutSettings()
    return {size for anchor in rule.anchors for size in halved(anchor, rule.halvings)}


def halved(size: int, halvings: int) -> list[int]:
    """``size`` halved 0 to ``halvings`` - 1 times, each even."""
    return [even_step(size // 2**k) for k in range(halvings)]


def even_step(size: int) -> int:
    """The even number at or below ``size``, at least 2, so that its half is whole."""
    return max(2, size // 2 * 2)
