"""The maximum mean discrepancy of two sets of videos with a polynomial kernel.

Gretton et al., JMLR 13 (2012); as KID: Binkowski et al., arXiv 1801.01401. M samples [M, D] of V
videos; samples of one video depend on each other, so sums go by pairs of videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelwizard.evaluation.reference import SetDistance, Tensors
from pixelwizard.evaluation.score import RESAMPLINGS, Unavailable, draws, interval


@dataclass(frozen=True)
class Kernel:
    """``(x.y / D + offset) ** degree``."""

    degree: int
    offset: float

    def sums(self, ones: list[Tensor], others: list[Tensor]) -> Tensor:
        """The sum of the kernel over all samples of two videos, float64 [V, W]."""
        every = torch.cat(others).float()
        owners = torch.repeat_interleave(torch.tensor([len(other) for other in others]))
        rows = []
        for one in ones:
            values = (one.float() @ every.T / every.shape[1] + self.offset).double() ** self.degree
            rows.append(torch.zeros(len(others)).double().index_add_(0, owners, values.sum(dim=0)))
        return torch.stack(rows)

    def discrepancy(self, ours_VD: Tensor, real_WD: Tensor) -> float:
        """The squared discrepancy of two sets with one sample for each video, unbiased."""
        ours, real = (list(videos.float()[:, None]) for videos in (ours_VD, real_WD))
        within = [self.sums(videos, videos) for videos in (ours, real)]
        means = [(s.sum() - s.trace()) / (len(s) * (len(s) - 1)) for s in within]
        return float(sum(means) - 2 * self.sums(ours, real).mean())


class KernelDistance(SetDistance):
    """The squared discrepancy between the videos and the real ones.

    Unbiased, it leaves out pairs of samples of one video, and may be negative; ``biased`` counts
    every pair. The interval draws whole videos; the pseudo-values are the jackknife's.
    """

    kernel = Kernel(3, 1.0)
    estimator = "/poly3-unbiased"
    biased = False
    scale = 1.0

    def summary(self, features: Iterator[Tensor]) -> Tensors:
        """All samples, and how many each video has."""
        found = [each.float() for each in features]
        return {"features": torch.cat(found), "counts": torch.tensor([*map(len, found)])}

    def compute(self) -> Tensor:
        """[value, low, high] float64. Raises Unavailable for fewer than two videos in a set."""
        real = list(self.real["features"].split(self.real["counts"].tolist()))
        if min(len(self.values), len(real)) < 2:
            raise Unavailable("a discrepancy needs at least two videos in each set")
        ours, theirs = self._mean(self.values, self.values), self._mean(real, real)
        both = self._mean(self.values, real, apart=False)
        videos, every = len(self.values), torch.ones(1, len(real)).double()
        once, drawn = torch.ones(1, videos).double(), draws(videos, RESAMPLINGS)
        times = torch.stack([torch.bincount(d, minlength=videos) for d in drawn]).double()

        def discrepancy(times_RV: Tensor) -> Tensor:
            found = ours(times_RV, times_RV) + theirs(every, every)
            return self.scale * (found - 2 * both(times_RV, every))

        value, resampled = float(discrepancy(once)), discrepancy(times)
        if videos > 2:  # without one of two there are no pairs
            left = discrepancy(1 - torch.eye(videos).double())
            self.pseudo_values = videos * value - (videos - 1) * left
        ends = interval(value, resampled[resampled.isfinite()], videos)
        return torch.tensor([value, *ends], dtype=torch.float64)

    def _mean(
        self, ones: list[Tensor], others: list[Tensor], apart: bool = True
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The mean of the kernel over pairs of videos that count [R, V] and [R, W] times: [R].

        With ``apart`` no pair of a video with itself, unless the estimator is biased.
        """
        sums = self.kernel.sums(ones, others)
        sizes = [torch.tensor([len(each) for each in videos]).double() for videos in (ones, others)]
        counts = torch.outer(*sizes)
        if apart and not self.biased:
            sums, counts = sums.fill_diagonal_(0), counts.fill_diagonal_(0)

        def mean(ours: Tensor, theirs: Tensor) -> Tensor:
            total = (ours @ sums * theirs).sum(dim=-1)
            return total / (ours @ counts * theirs).sum(dim=-1)

        return mean
