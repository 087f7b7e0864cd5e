"""Patch-KID: the kernel distance between features of patches, at full resolution.

KID (arXiv 1801.01401: cubic kernel, unbiased) with EfficientNet-Lite0 on patches of 224 pixels,
none of them resized. Patches of a video depend on each other: pairs of one video are left out, and
the interval draws whole videos.
"""

from __future__ import annotations

from pixelwizard.evaluation.kernel import KernelDistance
from pixelwizard.evaluation.reference import OfPatches


class PatchKernelDistance(OfPatches, KernelDistance):
    """Distance to the real videos, patch by patch; about 0 for videos of the same kind."""

    name = "patch-kid"
