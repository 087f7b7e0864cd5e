"""Values of several seeds and clips, and 95 % intervals by resampling both. S seeds, C clips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pixelwizard.evaluation.frechet import Moments, frechet_distance

RESAMPLINGS = 2000
Figure = dict[str, float]
"""``value``, ``low`` and ``high``."""


def interval(values_SC: np.ndarray, value: Callable[[np.ndarray, np.ndarray], float]) -> Figure:
    """``value`` of all seeds and clips, and 95 % of what other seeds and clips would give."""
    seeds, count = values_SC.shape[:2]
    draw = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLINGS):
        chosen_S, chosen_C = (draw.integers(n, size=(n,)) for n in (seeds, count))
        resampled.append(value(values_SC[chosen_S], chosen_C))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": value(values_SC, np.arange(count)), "low": float(low), "high": float(high)}


def over_seeds(values: np.ndarray, value: Callable[[np.ndarray, np.ndarray], float]) -> Figure:
    """The mean, the least and the greatest of the seeds: sets with repeated clips lie farther."""
    every = np.arange(values.shape[1])
    return ends([value(values[seed : seed + 1], every) for seed in range(len(values))])


def ends(values: list[float]) -> Figure:
    """The mean of some values, the least and the greatest."""
    return {"value": float(np.mean(values)), "low": min(values), "high": max(values)}


def mean_of(values_SC: np.ndarray, chosen: np.ndarray) -> float:
    """The mean of the chosen clips over all seeds."""
    return float(values_SC[:, chosen].mean())


def distance_of_sets(features_SC2D: np.ndarray, chosen: np.ndarray) -> float:
    """FVD of generated [:, :, 0] to real [:, :, 1] features, the mean over seeds."""
    sets = [torch.from_numpy(seed[chosen]) for seed in features_SC2D]
    pairs = [(Moments.of(one[:, 0]), Moments.of(one[:, 1])) for one in sets]
    return float(np.mean([frechet_distance(one, other) for one, other in pairs]))


def in_thousandths(figure: Figure) -> str:
    """Value and interval."""
    return with_ends({key: 1000 * figure[key] for key in ("value", "low", "high")})


def with_ends(figure: Figure) -> str:
    """Value and ends."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    return f"{value:.2f} ({low:.2f} to {high:.2f})"
