"""Patch-FID: the Fréchet distance between features of patches, at full resolution.

FID (arXiv 1706.08500) with EfficientNet-Lite0 on patches of 224 pixels, none of them resized: it
sees blur, noise and compression that a distance on stretched frames does not. The covariance of
1280 features needs more patches than that; with fewer the value is biased, and patch-KID is not.
"""

from __future__ import annotations

from pixelwizard.evaluation.frechet import FrechetDistance
from pixelwizard.evaluation.reference import OfPatches


class PatchFrechetDistance(OfPatches, FrechetDistance):
    """Distance to the real videos, patch by patch."""

    name = "patch-fid"
    resamplings = 20
