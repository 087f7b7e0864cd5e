"""A value with its recipe and its interval. V videos, R resamplings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

SEED = 0
LEVELS = (0.025, 0.975)
RESAMPLINGS = 1000
STANDARD_ERRORS = NormalDist().inv_cdf(LEVELS[1]) + NormalDist().inv_cdf(0.8)
"""2.80: how far from 0 a mean must be to be told from it with 80 % power."""
NO_PAIRS = "no reference has the name, size and length of a video"


class Unavailable(ValueError):
    """A metric cannot be computed for these videos; the text says why."""


@dataclass(frozen=True)
class Score:
    """``low`` and ``high`` bound 95 % of what other videos of the kind would give."""

    name: str
    value: float
    low: float
    high: float
    recipe: str
    videos: int
    higher_is_better: bool
    warnings: tuple[str, ...] = ()


def mean_with_interval(values_V: Tensor) -> tuple[float, float, float]:
    """The mean of the videos' values, and the ends of its interval."""
    mean = float(values_V.mean())
    return mean, *interval(mean, values_V[draws(len(values_V), RESAMPLINGS)].mean(dim=1))


def draws(videos: int, count: int) -> Tensor:
    """[count, V] numbers of videos, drawn with repetition and always the same."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(videos, (count, videos), generator=generator)


def interval(value: float, resampled_R: Tensor) -> tuple[float, float]:
    """Percentiles of resampled values, moved so that their median is the value.

    Resampling repeats videos, which raises every Fréchet distance: only the spread is of use.
    """
    low, middle, high = resampled_R.quantile(torch.tensor([LEVELS[0], 0.5, LEVELS[1]]).double())
    return value + float(low - middle), value + float(high - middle)


def detectable(deviation: float, pairs: int) -> float:
    """The smallest mean difference that so many pairs show with 80 % power.

    For the normal law (Lehr, Statistics in Medicine 11, 1992); a simulation in the tests finds the
    same of the intervals above, from two dozen pairs on.
    """
    return STANDARD_ERRORS * deviation / math.sqrt(pairs)


def pairs_needed(deviation: float, difference: float) -> int:
    """How many pairs show a mean difference with 80 % power."""
    return max(2, math.ceil((STANDARD_ERRORS * deviation / difference) ** 2))
