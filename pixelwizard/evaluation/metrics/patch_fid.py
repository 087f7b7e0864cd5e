"""Patch-FID: the Fréchet distance between features of patches, at full resolution.

FID (arXiv 1706.08500) with EfficientNet-Lite0 on patches of 224 pixels, none of them resized: it
sees blur, noise and compression that a distance on stretched frames does not. The covariance of
1280 features needs more patches than that; with fewer the value is biased, and patch-KID is not.
"""

from __future__ import annotations

from torch import Tensor

from pixelwizard.evaluation.metrics import fvd
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.patches import PATCHES, look_at_patches, samples


class PatchFrechetDistance(fvd.FrechetVideoDistance):
    """Distance to the real videos, patch by patch."""

    sampling = PATCHES
    name = "patch-fid"
    temporal = False
    resamplings = 20

    def look_with(self, given: Given) -> str:
        """See patches with the image network."""
        return look_at_patches(self, given)

    def features(self, seen: Tensor) -> Tensor:
        """A sample per patch."""
        return samples(seen)
