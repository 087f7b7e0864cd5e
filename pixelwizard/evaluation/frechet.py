"""The Fréchet distance of two sets of features, in float64, from statistics that can be merged.

Between Gaussians with the means and covariances of the sets (Dowson and Landau 1982; FVD: arXiv
1812.01717). D: number of features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor

from pixelwizard.evaluation.score import Unavailable


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

    @staticmethod
    def summary(features: Iterator[Tensor]) -> dict[str, Tensor]:
        """The moments of the samples of many videos, as tensors by name."""
        return vars(reduce(add, map(Moments.of, features)))

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
