"""The Fréchet distance of two sets of features, in float64, from statistics that can be merged.

Between Gaussians with the means and covariances of the sets (Dowson and Landau 1982; FVD: arXiv
1812.01717). D: number of features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelwizard.evaluation.score import Unavailable
from pixelwizard.io.files import atomic
from pixelwizard.io.reading import PIXELS

STATISTICS = "stats.safetensors"


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


def keep_moments(folder: Path, found: dict[str, Moments], content: str) -> None:
    """Write the statistics of a folder into it, each under its recipe; ``content`` is its hash.

    A folder that cannot be written keeps nothing.
    """
    tensors = {
        f"{recipe}:{name}": getattr(moments, name).contiguous()
        for recipe, moments in found.items()
        for name in ("count", "total", "outer")
    }
    known = {"content": content, "pixels": str(PIXELS), "recipes": json.dumps(sorted(found))}
    try:
        with atomic(folder / STATISTICS) as part:
            save_file(tensors, part, metadata=known)
    except OSError:
        return


def kept_moments(folder: Path, content: str) -> dict[str, Moments]:
    """The statistics that a folder keeps by recipe; none if its videos or their pixels differ."""
    path = folder / STATISTICS
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata() or {}
            if (known.get("content"), known.get("pixels")) != (content, str(PIXELS)):
                return {}
            return {
                recipe: Moments(
                    *(file.get_tensor(f"{recipe}:{name}") for name in ("count", "total", "outer"))
                )
                for recipe in json.loads(known["recipes"])
            }
    except (SafetensorError, OSError, KeyError, ValueError):
        return {}
