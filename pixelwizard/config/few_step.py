"""The settings of the few-step objectives, each with its source's default. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Literal

from pixelwizard.config.schema import ConfigError, check_pair, setting


@dataclass(frozen=True)
class FlowMapSettings:
    """AnyFlow's first stage (arXiv 2605.13724): from any t to any earlier time.

    A step learns maps with ``probability``, the velocity otherwise; a share ``to_data`` of the maps
    end at 0, the others at a time drawn like t. The derivative along the path is a central
    difference of ``difference`` timesteps to each side. ``balance`` scales a map's loss to that of
    flow matching.
    """

    probability: float = setting(0.5, low=0.0, high=1.0)
    to_data: float = setting(0.5, low=0.0, high=1.0)
    difference: float = setting(5.0, low=0.01, high=100.0)
    balance: bool = True


@dataclass(frozen=True)
class MeanFlowSettings:
    """MeanFlow (arXiv 2505.13447): the mean velocity over an interval, by its identity.

    Both ends of the interval are sigmoid(``mean`` + ``std`` normal); a step learns intervals with
    ``probability``, the velocity otherwise. The loss of a sample, summed over its latent, is
    divided by (itself + ``offset``) ^ ``power``. ``mix`` is the share of the conditional velocity
    in the guided target, which holds for t between the two of ``guided_between``. An interval is at
    most ``longest`` wide, in sigma; the bound rises to it from 0 over the share ``rise`` of the
    training. The derivative along the path comes from forward-mode differentiation (``jvp``) or
    from a difference of ``difference`` timesteps.
    """

    probability: float = setting(0.25, low=0.0, high=1.0)
    mean: float = -0.4
    std: float = setting(1.0, low=1e-3)
    power: float = setting(1.0, low=0.0)
    offset: float = setting(1e-2, low=1e-9)
    mix: float = setting(0.0, low=0.0, high=0.99)
    guided_between: List[float] = setting([0.0, 1000.0], low=0.0, high=1000.0)
    longest: float = setting(1.0, low=1e-3, high=1.0)
    rise: float = setting(0.0, low=0.0, high=1.0)
    derivative: Literal["differences", "jvp"] = "differences"
    difference: float = setting(5.0, low=0.01, high=100.0)

    def check(self, key: str) -> None:
        """Two times in order; raises ConfigError."""
        what = "the earliest and the latest timestep of guidance, like [0, 1000]"
        check_pair(f"{key}.guided_between", self.guided_between, what)


@dataclass(frozen=True)
class ConsistencySettings:
    """Consistency distillation: every point of a teacher's path is told the same clean latent.

    ``discrete``    neighbours among ``parts`` equal parts of the path, ``skip`` apart, the squared
                    distance of clean latents times ``scale`` (LCM, arXiv 2310.04378)
    ``continuous``  sCM (arXiv 2410.11081) with rCM's settings (2510.08431): the derivative along
                    the path by differences, in force after ``warmup`` steps, t from a log-normal
                    sigma / (1 - sigma), the gradient divided by its size plus ``offset``

    ``guidance`` is the teacher's scale.
    """

    kind: Literal["discrete", "continuous"] = "discrete"
    guidance: float = setting(5.0, low=0.0)
    parts: int = setting(48, low=2, high=1000)
    skip: int = setting(1, low=1)
    scale: float = setting(100.0, low=1e-9)
    mean: float = 0.7
    std: float = setting(1.6, low=1e-3)
    warmup: int = setting(1000, low=0)
    offset: float = setting(0.1, low=1e-9)
    difference: float = setting(5.0, low=0.01, high=100.0)

    def check(self, key: str) -> None:
        """Neighbours on the path; raises ConfigError."""
        if self.skip >= self.parts:
            raise ConfigError(
                f"{key}.skip={self.skip} must be less than {key}.parts={self.parts}; nearest:"
                f" {self.parts - 1}"
            )


@dataclass(frozen=True)
class ProgressiveSettings:
    """Progressive distillation (arXiv 2202.00512): one step lands where the teacher's two do.

    The training has a stage of equal length for each of ``counts`` numbers of steps. The first
    teacher takes twice the first count with ``guidance``; each later one is the student that the
    stage before has made.
    """

    counts: List[int] = setting([16, 8, 4, 2, 1], low=1, high=500)
    guidance: float = setting(1.0, low=0.0)

    def check(self, key: str) -> None:
        """At least one stage, each half of the one before; raises ConfigError."""
        counts = self.counts
        if not counts:
            raise ConfigError(f"{key}.counts=[] has no stage; give at least one, like [8, 4]")
        for before, after in zip(counts, counts[1:], strict=False):
            if after * 2 != before:
                raise ConfigError(
                    f"{key}.counts={counts}: {after} comes after {before}, but a student takes half"
                    f" of its teacher's steps; nearest: {before // 2}"
                )


@dataclass(frozen=True)
class DMDSettings:
    """Distribution matching (DMD2, arXiv 2405.14867; FastVideo's data-free settings for Wan2.2).

    Of ``ratio`` steps one trains the student, the others a second score network on the student's
    samples, at ``score_lr`` times the rates. The student samples from noise:

    ``renoise``  a clean latent from each of ``timesteps``, noised to the next; one of them, drawn
                 for the step, is trained
    ``jumps``    AnyFlow's second stage: from noise to step k of a number of steps among ``counts``,
                 to the next, to 0, trained through all three jumps

    The two scores are compared at a time between those of ``between``. ``guidance`` is the
    teacher's scale in u + s (c - u): FastVideo's 3 is c + 3 (c - u), so 4 here.
    """

    rollout: Literal["renoise", "jumps"] = "renoise"
    timesteps: List[float] = setting([1000.0, 757.0, 522.0], low=1.0, high=1000.0)
    counts: List[int] = setting([2, 4, 8, 16, 50], low=1, high=1000)
    guidance: float = setting(4.0, low=0.0)
    ratio: int = setting(5, low=2)
    score_lr: float = setting(0.5, low=1e-9)
    between: List[float] = setting([20.0, 980.0], low=1.0, high=999.0)

    def check(self, key: str) -> None:
        """Times that fall, two bounds in order; raises ConfigError."""
        times = self.timesteps
        if not times or sorted(set(times), reverse=True) != times:
            raise ConfigError(
                f"{key}.timesteps={times} must decrease strictly, like [1000, 757, 522]"
            )
        if not self.counts:
            raise ConfigError(f"{key}.counts=[] must name at least one number of steps")
        what = "the least and the greatest timestep, like [20, 980]"
        check_pair(f"{key}.between", self.between, what)
