"""The Fréchet distance of two sets of features, in float64, from statistics that can be merged.

Between Gaussians with the means and covariances of the sets (Dowson and Landau 1982; FVD: arXiv
1812.01717). D: number of features; M samples, one or more for each of V videos.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor

from pixelwizard.evaluation.reference import SetDistance, Tensors
from pixelwizard.evaluation.score import Unavailable, draws, interval


@dataclass(frozen=True)
class Moments:
    """Sums over samples, float64: how many, of the features [D], of their products [D, D]."""

    count: Tensor
    total: Tensor
    outer: Tensor

    @staticmethod
    def of(samples_MD: Tensor) -> Moments:
        """The moments of samples."""
        samples = samples_MD.double()
        count = torch.tensor(len(samples), dtype=torch.float64)
        return Moments(count, samples.sum(0), samples.T @ samples)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        """[D]."""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """[D, D], unbiased. Raises Unavailable for fewer than two samples."""
        if self.count < 2:
            raise Unavailable("a Fréchet distance needs at least two videos in each set")
        centred = self.outer - torch.outer(self.total, self.mean)
        return (centred + centred.T) / (2 * (self.count - 1))

    @cached_property
    def root(self) -> Tensor:
        """The symmetric root of the covariance, [D, D]."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), squared as all implementations have it.

    The trace of the root is the sum of the singular values of S1^(1/2) S2^(1/2): of a product of
    symmetric roots, exact where a covariance has no full rank and without complex numbers.
    """
    cross = torch.linalg.svdvals(first.root @ second.root).sum()
    apart = (first.mean - second.mean).square().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    return max(0.0, float(apart + traces - 2 * cross))


def influence(samples_MD: Tensor, first: Moments, second: Moments) -> Tensor:
    """How far each of the first set's samples moves the distance, to first order: [M], of mean 0.

    The derivative of the distance between Gaussians by a mean and a covariance, by way of the
    linear map that carries the first onto the second (Knott and Smith, JOTA 43, 1984). The first
    set needs more samples than features.
    """
    centred = samples_MD.double() - first.mean
    left, singular, _ = torch.linalg.svd(first.root @ second.root)
    inverse = torch.linalg.pinv(first.root, hermitian=True)
    carried = inverse @ (left * singular) @ left.T @ inverse
    found = 2 * centred @ (first.mean - second.mean)
    found += centred.square().sum(dim=1) - (centred @ carried * centred).sum(dim=1)
    return found - found.mean()


class FrechetDistance(SetDistance):
    """The distance of the videos' samples to those of the real ones."""

    resamplings = 100

    def summary(self, features: Iterator[Tensor]) -> Tensors:
        """The moments of the real videos."""
        return vars(reduce(add, map(Moments.of, features)))

    def compute(self) -> Tensor:
        """[value, low, high] float64, none below 0. Raises Unavailable for fewer than two videos.

        Patches of a video are not independent: the interval draws whole videos, and one that is
        drawn twice counts twice.
        """
        samples = torch.cat(self.values).double()
        owners = torch.repeat_interleave(torch.tensor([len(found) for found in self.values]))
        ours, reference = Moments.of(samples), Moments(**self.real)
        value = frechet_distance(ours, reference)
        if few := _too_few(len(samples), reference):
            self.warnings += few
        else:
            moved = torch.zeros(len(self.values)).double()
            moved.index_add_(0, owners, influence(samples, ours, reference))
            self.pseudo_values = value + moved * len(self.values) / len(samples)
        resampled = []
        for drawn in draws(len(self.values), self.resamplings):
            weights = torch.bincount(drawn, minlength=len(self.values))[owners].double()
            weighted = samples * weights[:, None]
            moments = Moments(weights.sum(), weighted.sum(0), weighted.T @ samples)
            resampled.append(frechet_distance(moments, reference))
        ends = interval(value, torch.tensor(resampled, dtype=torch.float64), len(self.values))
        return torch.tensor([value, *ends], dtype=torch.float64).clamp(min=0)


def _too_few(samples: int, reference: Moments) -> list[str]:
    """Few samples are enough to compute a distance, not to trust it."""
    dim = reference.total.numel()
    return [
        f"{count} samples {where} are fewer than the {dim} features: the value is biased and must"
        " only be compared at this number"
        for count, where in ((samples, "here"), (int(reference.count), "in the reference"))
        if count < dim
    ]
