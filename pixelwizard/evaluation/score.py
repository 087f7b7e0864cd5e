"""A value with the recipe that it was computed by and its interval; the base of all metrics.

V videos, M samples (one or more for each video), D values of a sample, R resamplings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pixelwizard.evaluation.clips import Probe

SEED = 0
LEVELS = (0.025, 0.975)


class TooFew(ValueError):
    """There are fewer videos than a score needs."""


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


def difference(first: Score, second: Score) -> float:
    """First minus second. Raises ValueError if they were not computed by the same recipe."""
    if first.recipe != second.recipe:
        raise ValueError(
            f"{first.recipe} and {second.recipe} are different recipes, so their values cannot be"
            " compared; compute both in the same way, from equally many videos"
        )
    return first.value - second.value


class VideoMetric(Metric):
    """A score over videos; ``update`` takes what ``probe`` (if it has one) found in one of them.

    The state is a list of rows [M, 1 + D] float64, the video's number first, so that processes may
    share the videos in any way and arrive at the same bits, once they have called ``sync``; without
    it ``compute`` looks at this process's videos alone. It gives value, lower and upper end of the
    interval and the number of videos, ``score`` the same with its recipe.
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self, name: str, probe: Probe | None, recipe: str, dim: int, higher: bool) -> None:
        # The process that scores is alone: other ranks may be gone by then, or busy training.
        super().__init__(sync_on_compute=False)
        self.name, self.probe, self.recipe, self.dim = name, probe, recipe, dim
        self.higher = higher
        self.warnings: list[str] = []
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, number: int, found: Tensor) -> None:
        """Take the samples [M, D] of video ``number``."""
        values = found.detach().to("cpu", torch.float64)
        numbers = torch.full((len(values), 1), number, dtype=torch.float64)
        self.rows.append(torch.cat([numbers, values], dim=1))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Merge the processes' states, also those of a process that saw no video."""
        if isinstance(self.rows, list) and not self.rows:
            self.rows.append(torch.zeros(0, 1 + self.dim, dtype=torch.float64))
        super().sync(*args, **kwargs)

    def compute(self) -> Tensor:
        """[value, low, high, number of videos] float64. Raises TooFew for too few videos."""
        samples, owners, videos = self.samples()
        value = self.value(samples)
        low, high = interval(value, self.resampled(samples, owners, videos))
        return torch.tensor([value, low, high, videos], dtype=torch.float64)

    def score(self) -> Score:
        """The value, with everything that is needed to read it."""
        value, low, high, videos = self.compute().tolist()
        count = int(videos)
        recipe = self.recipe.format(n=count)
        alone = ["one video has no interval"] if count == 1 else []
        warnings = (*self.warnings, *alone)
        return Score(self.name, value, low, high, recipe, count, self.higher, warnings)

    def samples(self) -> tuple[Tensor, Tensor, int]:
        """All samples [M, D] in the order of the videos, the index of each one's video, V."""
        rows = torch.cat(self.rows) if isinstance(self.rows, list) and self.rows else self.rows
        if isinstance(rows, list) or not len(rows):
            raise TooFew(f"{self.name} needs at least one video")
        order = torch.sort(rows[:, 0], stable=True).indices
        numbers, owners = torch.unique(rows[order, 0], return_inverse=True)
        return rows[order, 1:], owners, len(numbers)

    def value(self, samples_MD: Tensor) -> float:
        """The value of all samples: their mean."""
        return float(samples_MD.mean())

    def resampled(self, samples_MD: Tensor, owners_M: Tensor, videos: int) -> Tensor:
        """[R] values of sets of as many videos, drawn with repetition."""
        sums = torch.zeros(videos, dtype=torch.float64).index_add(0, owners_M, samples_MD.mean(1))
        return (sums / owners_M.bincount())[draws(videos, 1000)].mean(dim=1)

    def per_video(self) -> dict[int, float]:
        """The mean of each video of this process by its number; for scores that are means."""
        return {int(row[0, 0]): float(row[:, 1:].mean()) for row in self.rows}


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
