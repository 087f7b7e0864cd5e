"""Patch-KID: the kernel distance between features of patches, at full resolution.

KID (arXiv 1801.01401: cubic kernel, unbiased) with EfficientNet-Lite0 on patches of 224 pixels,
none of them resized. Patches of a video depend on each other: pairs of one video are left out, and
the interval draws whole videos.
"""

from __future__ import annotations

from torch import Tensor

from pixelwizard.evaluation.kernel import KernelDistance
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.patches import PATCHES, look_at_patches, samples


class PatchKernelDistance(KernelDistance):
    """Distance to the real videos, patch by patch; about 0 for videos of the same kind."""

    sampling = PATCHES
    name = "patch-kid"

    def look_with(self, given: Given) -> str:
        """See patches with the image network."""
        return f"{look_at_patches(self, given)}/poly3-unbiased"

    def features(self, seen: Tensor) -> Tensor:
        """A sample per patch."""
        return samples(seen)
