"""Values of several seeds and clips, and 95 % intervals by resampling both. S seeds, C clips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pixelwizard.comparison.few_step.files import Seeds
from pixelwizard.evaluation.frechet import Moments, frechet_distance

RESAMPLINGS = 2000
Interval = dict[str, float]
"""``value``, ``low`` and ``high``."""


def columns(seeds: Seeds, passes: int, figure: str) -> np.ndarray:
    """A figure of all seeds and clips, [S, C], or [S, C, D]."""
    return np.array([[row[f"{passes}"][figure] for row in rows] for rows in seeds.values()])


def interval(values_SC: np.ndarray, value: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
    """``value`` over all seeds and clips, with its 95 % interval from resampling both."""
    seeds, count = values_SC.shape[:2]
    draw = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLINGS):
        chosen_S, chosen_C = (draw.integers(n, size=(n,)) for n in (seeds, count))
        resampled.append(value(values_SC[chosen_S], chosen_C))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": value(values_SC, np.arange(count)), "low": float(low), "high": float(high)}


def mean_and_range(values: list[float]) -> Interval:
    """The mean of some values, the least and the greatest."""
    return {"value": float(np.mean(values)), "low": min(values), "high": max(values)}


def mean_of(values_SC: np.ndarray, chosen: np.ndarray) -> float:
    """The mean of the chosen clips over all seeds."""
    return float(values_SC[:, chosen].mean())


def fvd_over_seeds(ours_SCD: np.ndarray, real_SCD: np.ndarray) -> Interval:
    """FVD of generated to real features, a value for each seed.

    It has no interval by resampling: sets with repeated clips lie farther.
    """
    pairs = zip(torch.from_numpy(ours_SCD), torch.from_numpy(real_SCD), strict=True)
    return mean_and_range([frechet_distance(Moments.of(a), Moments.of(b)) for a, b in pairs])


def in_thousandths(found: Interval) -> str:
    """``shown`` of a thousand times the values."""
    return shown({key: 1000 * value for key, value in found.items()})


def shown(found: Interval) -> str:
    """Value and ends."""
    value, low, high = (found[key] for key in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
