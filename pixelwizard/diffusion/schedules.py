"""Step-skip schedules: a schedule is data, made by plain arithmetic (no torch here).

A step starts at its ``sigma`` and ends where the next one starts, the last one at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelwizard.config.objective import ShortcutSettings
from pixelwizard.config.sampler import SamplerSettings, check_sampler

TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class Step:
    """Where a step starts and what the network is told there.

    ``timestep`` is the network's time in [0, 1000]; ``dt`` the step size in timesteps, ``None``
    for a network without step-size conditioning; ``guided`` asks for classifier-free guidance.
    """

    sigma: float
    timestep: float
    dt: int | None
    guided: bool


@dataclass(frozen=True)
class Schedule:
    """The steps of one sampling run, from noise to data, and the solver that takes them."""

    solver: str
    steps: tuple[Step, ...]

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The start of every step, then the end of the last: len(steps) + 1 values."""
        return (*(step.sigma for step in self.steps), 0.0)

    @property
    def nfe(self) -> int:
        """Number of function evaluations: network passes of one video, two for a guided step."""
        return sum(2 if step.guided else 1 for step in self.steps)


def make_schedule(settings: SamplerSettings, shift: float) -> Schedule:
    """The schedule of one stage; ``shift`` is the resolution's, used unless the settings have one.

    Raises ValueError for settings outside their ranges (``check_sampler``).
    """
    check_sampler(settings, "schedule")
    if settings.timesteps is not None:
        timesteps = [float(t) for t in settings.timesteps]
        sigmas = [t / TRAIN_TIMESTEPS for t in timesteps]
    else:
        sigmas = solver_sigmas(settings.solver, settings.steps, settings.shift or shift)
        timesteps = [float(int(sigma * TRAIN_TIMESTEPS)) for sigma in sigmas]
    sizes: list[int | None] = [None] * len(sigmas)
    if settings.step_sizes != "none":
        sizes = list(step_sizes(timesteps, snapped=settings.step_sizes == "snapped"))
    guided = range(len(sigmas)) if settings.guided_steps is None else settings.guided_steps
    steps = (
        Step(sigma, timestep, dt, guided=settings.guidance != 1 and index in guided)
        for index, (sigma, timestep, dt) in enumerate(zip(sigmas, timesteps, sizes, strict=True))
    )
    return Schedule(settings.solver, tuple(steps))


def solver_sigmas(solver: str, steps: int, shift: float) -> list[float]:
    """The starting sigmas of ``steps`` even steps in unshifted sigma, shifted towards noise.

    DPM++ starts at 1, the others at 0.999 (Wan2.2 ``fm_solvers.py``, ``fm_solvers_unipc.py``).
    """
    start = 1.0 if solver == "dpmpp" else 0.999
    even = [start * (1 - index / steps) for index in range(steps)]
    return [shift * sigma / (1 + (shift - 1) * sigma) for sigma in even]


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
