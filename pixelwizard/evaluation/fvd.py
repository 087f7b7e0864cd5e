"""FVD and HD-FVD: the Fréchet distance of a video network's features to those of a reference.

FVD (arXiv 1812.01717) stretches the first 16 frames to the network's size. HD-FVD (UltraGen, arXiv
2510.18775, appendix D) cuts 16 frames spread over the clip into patches of the network's size, side
by side and without resizing; the patches of a video are not independent, so the interval draws
whole videos. P patches, S the side of the network's input, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.config.metrics import SCORED_FRAMES
from pixelwizard.evaluation.clips import Clip, Probe, Sampling, Watcher
from pixelwizard.evaluation.frechet import Moments, frechet_distance
from pixelwizard.evaluation.networks import VideoNetwork
from pixelwizard.evaluation.score import VideoMetric, draws

FRAMES = SCORED_FRAMES
RESAMPLINGS = 100
PATCHES_AT_ONCE = 4


class ClipFeatures(Probe):
    """One sample per clip: its first 16 frames, stretched."""

    sampling = Sampling("first", FRAMES)

    def __init__(self, network: VideoNetwork) -> None:
        self.network = network
        self.recipe = f"fvd/{network.label}/{network.facts.resize}/{self.sampling}"

    def watch(self, clip: Clip) -> Watcher:
        return _Stretched(self.network)


class PatchFeatures(Probe):
    """One sample per patch: 16 frames over the whole clip, cut and not resized."""

    sampling = Sampling("uniform", FRAMES)

    def __init__(self, network: VideoNetwork) -> None:
        self.network = network
        self.recipe = f"hd-fvd/{network.label}/patch{network.facts.side}/{self.sampling}"

    def watch(self, clip: Clip) -> Watcher:
        return _Cut(self.network)


class _Stretched(Watcher):
    def __init__(self, network: VideoNetwork) -> None:
        self.network = network
        self.frames: list[Tensor] = []

    def see(self, frame_HWC: Tensor) -> None:
        self.frames.append(self.network.fit(frame_HWC))

    def found(self) -> Tensor:
        return self.network.features(torch.stack(self.frames, dim=1)[None])


class _Cut(Watcher):
    """Keeps the 16 frames as uint8; only a few patches at a time become floats."""

    def __init__(self, network: VideoNetwork) -> None:
        self.network = network
        self.frames: list[Tensor] = []

    def see(self, frame_HWC: Tensor) -> None:
        self.frames.append(patches(frame_HWC, self.network.facts.side))

    def found(self) -> Tensor:
        clips_PTSSC = torch.stack(self.frames, dim=1)
        parts = clips_PTSSC.split(PATCHES_AT_ONCE)
        return torch.cat([self.network.features(part.permute(0, 4, 1, 2, 3)) for part in parts])


def patches(frame_HWC: Tensor, side: int) -> Tensor:
    """[H, W, 3] -> [P, side, side, 3], row by row; what is left at the lower right is dropped."""
    rows, columns = frame_HWC.shape[0] // side, frame_HWC.shape[1] // side
    whole = frame_HWC[: rows * side, : columns * side]
    return whole.reshape(rows, side, columns, side, 3).transpose(1, 2).reshape(-1, side, side, 3)


class FrechetVideoDistance(VideoMetric):
    """Distance to the moments of a reference, from the features of every video.

    ``reference`` is named in the recipe by ``content``, the hash of its videos.
    """

    def __init__(
        self, probe: ClipFeatures | PatchFeatures, reference: Moments, content: str
    ) -> None:
        dim = probe.network.facts.dim
        recipe = f"{probe.recipe}/n={{n}}/ref={content[:8]}"
        super().__init__(probe.recipe.split("/")[0], probe, recipe, dim, higher=False)
        self.reference = reference

    def value(self, samples_MD: Tensor) -> float:
        """The distance of all samples; few of them are enough to compute it, not to trust it."""
        self.warnings = [
            f"{int(count)} samples {where} are fewer than the {self.dim} features: the value is"
            " biased and must only be compared at this number"
            for count, where in (
                (len(samples_MD), "here"),
                (self.reference.count, "in the reference"),
            )
            if count < self.dim
        ]
        return frechet_distance(Moments.of(samples_MD), self.reference)

    def compute(self) -> Tensor:
        """[value, low, high, number of videos] float64, none below 0."""
        return super().compute().clamp(min=0)

    def resampled(self, samples_MD: Tensor, owners_M: Tensor, videos: int) -> Tensor:
        """[R] distances of sets of as many videos; a video that is drawn twice counts twice."""
        values = []
        for drawn in draws(videos, RESAMPLINGS):
            weights = torch.bincount(drawn, minlength=videos)[owners_M].double()
            weighted = samples_MD * weights[:, None]
            moments = Moments(weights.sum(), weighted.sum(0), weighted.T @ samples_MD)
            values.append(frechet_distance(moments, self.reference))
        return torch.tensor(values, dtype=torch.float64)
