"""FVD: the Fréchet distance between a video network's features of generated and real videos.

arXiv 1812.01717: the first 16 frames, stretched to the network's size. D features; M samples, one
or more for each of V videos.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pixelwizard.config.output import SCORED_FRAMES
from pixelwizard.evaluation.frechet import Moments, frechet_distance, influence
from pixelwizard.evaluation.metrics.base import Given, Sampling
from pixelwizard.evaluation.networks import VideoNetwork
from pixelwizard.evaluation.reference import SetDistance, Tensors
from pixelwizard.evaluation.score import draws, interval


class FrechetVideoDistance(SetDistance):
    """Distance to the real videos of ``reference``."""

    sampling = Sampling("first", SCORED_FRAMES, least=SCORED_FRAMES)
    name = "fvd"
    temporal = True
    resamplings = 100

    def look_with(self, given: Given) -> str:
        """See frames as the video network wants them."""
        self.network: VideoNetwork = given.network("video")
        self.look = self.network.fit
        return self.network.convention

    def summary(self, features: Iterator[Tensor]) -> Tensors:
        """The moments of the real videos."""
        return Moments.summary(features)

    def features(self, seen: Tensor) -> Tensor:
        """A sample per video."""
        return self.network.sample(seen)

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
