"""FVD: the Fréchet distance between a video network's features of generated and real videos.

arXiv 1812.01717: the first 16 frames, stretched to the network's size. D features; M samples, one
or more for each of V videos.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.config.output import SCORED_FRAMES
from pixelwizard.evaluation.files import content_hash
from pixelwizard.evaluation.frechet import Moments, frechet_distance, keep_moments, kept_moments
from pixelwizard.evaluation.look import look_at_all, raised
from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric
from pixelwizard.evaluation.networks import VideoNetwork
from pixelwizard.evaluation.score import Unavailable, draws, interval

RESAMPLINGS = 100


class FrechetVideoDistance(VideoMetric):
    """Distance to the real videos of ``reference``, which the recipe names by their hash.

    ``values`` has the features [M, D] of every video.
    """

    higher_is_better = False
    per_video = False
    sampling = Sampling("first", SCORED_FRAMES)
    name = "fvd"
    resize = ""

    def prepare(self, given: Given) -> None:
        """Load the network and the statistics of the real videos."""
        if not given.reference:
            raise Unavailable("needs reference=DIR")
        self.use(given.network("video"))
        self.reference = self._reference(given)

    def use(self, network: VideoNetwork) -> None:
        """Look with this network."""
        self.network, self.look = network, network.fit
        self.resize = network.facts.resize

    def features(self, seen: Tensor) -> Tensor:
        """One sample [1, D] from the stretched frames uint8 [16, 3, S, S] of a video."""
        return self.network.features(seen.transpose(0, 1)[None])

    def update(self, seen: Tensor) -> None:
        """Take the frames of a video, as the network wants them."""
        self.values.append(self.features(seen).double())

    def compute(self) -> Tensor:
        """[value, low, high] float64, none below 0. Raises Unavailable for fewer than two videos.

        Patches of a video are not independent: the interval draws whole videos, and one that is
        drawn twice counts twice.
        """
        samples = torch.cat(self.values)
        owners = torch.repeat_interleave(torch.tensor([len(found) for found in self.values]))
        value = frechet_distance(Moments.of(samples), self.reference)
        self.warnings = [*self._too_few(len(samples))]
        resampled = []
        for drawn in draws(len(self.values), RESAMPLINGS):
            weights = torch.bincount(drawn, minlength=len(self.values))[owners].double()
            weighted = samples * weights[:, None]
            moments = Moments(weights.sum(), weighted.sum(0), weighted.T @ samples)
            resampled.append(frechet_distance(moments, self.reference))
        ends = interval(value, torch.tensor(resampled, dtype=torch.float64))
        return torch.tensor([value, *ends], dtype=torch.float64).clamp(min=0)

    def _too_few(self, samples: int) -> list[str]:
        """Few samples are enough to compute a distance, not to trust it."""
        dim = self.reference.total.numel()
        counts = ((samples, "here"), (int(self.reference.count), "in the reference"))
        return [
            f"{count} samples {where} are fewer than the {dim} features: the value is biased and"
            " must only be compared at this number"
            for count, where in counts
            if count < dim
        ]

    def _reference(self, given: Given) -> Moments:
        """The moments of the real videos, from their folder's cache where it has them."""
        paths = [clip.path for clip in given.reference]
        content, folder = content_hash(paths), paths[0].parent
        convention = f"{self.network.label}/{self.resize}/{self.sampling}"
        self.convention = f"{convention}/n={{n}}/ref={content[:8]}"
        kept, recipe = kept_moments(folder, content), f"{self.name}/{convention}"
        if recipe in kept:
            return kept[recipe]
        total = None
        for number, (clip, found) in enumerate(look_at_all(given.reference, [self])):
            given.show(f"reference {number + 1} of {len(given.reference)}", clip.id)
            moments = Moments.of(self.features(raised(found()[0])))
            total = moments if total is None else total + moments
        assert total is not None
        keep_moments(folder, {**kept, recipe: total}, content)
        return total
