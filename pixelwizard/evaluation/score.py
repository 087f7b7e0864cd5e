"""A value with its recipe and its interval. V videos, R resamplings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SEED = 0
LEVELS = (0.025, 0.975)
RESAMPLINGS = 1000
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
