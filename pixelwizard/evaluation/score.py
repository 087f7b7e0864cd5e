"""A value with its recipe and its interval. V videos, R resamplings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev
from typing import Literal

import torch
from torch import Tensor

SEED = 0
LEVELS = (0.025, 0.975)
RESAMPLINGS = 1000
POWER = 0.8
NO_PAIRS = "no reference has the name, size and length of a video"
Sign = Literal["better", "worse", "unclear", "equal"]


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
    resampled = values_V[draws(len(values_V), RESAMPLINGS)].mean(dim=1)
    return mean, *interval(mean, resampled, len(values_V))


def draws(videos: int, count: int) -> Tensor:
    """[count, V] numbers of videos, drawn with repetition and always the same."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(videos, (count, videos), generator=generator)


def interval(value: float, resampled_R: Tensor, videos: int) -> tuple[float, float]:
    """Percentiles of resampled values, moved so that their median is the value.

    Resampling repeats videos, which raises every Fréchet distance: only the spread is of use. It is
    too small by what Student's law is wider than the normal one, and by the bias of a sample's
    deviation, together 8 % at 24 videos (Hesterberg, American Statistician 69, 2015, section 3).
    """
    low, middle, high = resampled_R.quantile(torch.tensor([LEVELS[0], 0.5, LEVELS[1]]).double())
    if videos > 1:
        wider = student(LEVELS[1], videos) / NormalDist().inv_cdf(LEVELS[1])
        wider *= math.sqrt(videos / (videos - 1))
        low, high = (middle + wider * (end - middle) for end in (low, high))
    return value + float(low - middle), value + float(high - middle)


def student(level: float, videos: int) -> float:
    """The quantile of Student's law for the mean of so many values, at least two.

    Abramowitz and Stegun 26.7.5: 1 % low at four values, 0.1 % at seven.
    """
    z, free = NormalDist().inv_cdf(level), videos - 1
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / free + second / free**2 + third / free**3


def detectable(deviation: float, pairs: int) -> float:
    """The smallest mean difference that so many pairs show with 80 % power.

    Lehr, Statistics in Medicine 11, 1992, with Student's quantiles: 2.93 standard errors at 24
    pairs. A simulation in the tests finds the same of the intervals above.
    """
    return (student(LEVELS[1], pairs) + student(POWER, pairs)) * deviation / math.sqrt(pairs)


def pairs_needed(deviation: float, difference: float) -> int:
    """How many pairs show a mean difference with 80 % power."""
    normal = NormalDist().inv_cdf(LEVELS[1]) + NormalDist().inv_cdf(POWER)
    pairs = max(2, math.ceil((normal * deviation / difference) ** 2))
    while detectable(deviation, pairs) > abs(difference):
        pairs += 1
    return pairs


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences from the baseline, and whether its interval excludes 0.

    ``deviation`` is that of the differences; ``detectable`` the smallest mean that this many pairs
    show with 80 % power.
    """

    value: float
    low: float
    high: float
    sign: Sign
    deviation: float
    detectable: float


def difference_of(pairs: Sequence[float], higher_is_better: bool) -> Difference:
    """What paired differences say."""
    mean, low, high = mean_with_interval(torch.tensor(pairs, dtype=torch.float64))
    spread = stdev(pairs) if len(pairs) > 1 else 0.0
    least = detectable(spread, len(pairs)) if len(pairs) > 1 else 0.0
    if low == high == 0:
        sign: Sign = "equal"
    elif low <= 0 <= high or len(pairs) == 1:  # one pair has no interval
        sign = "unclear"
    else:
        sign = "better" if (mean > 0) == higher_is_better else "worse"
    return Difference(mean, low, high, sign, spread, least)
