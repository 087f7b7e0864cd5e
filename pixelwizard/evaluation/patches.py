"""What the metrics on an image network's features of patches have in common.

T frames, P patches of a frame, D features.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pixelwizard.evaluation.metrics.base import Given, Sampling
from pixelwizard.evaluation.networks import ImageNetwork

SIDE = 224
PATCHES = Sampling("uniform", 16, side=SIDE, patches=ImageNetwork.patches)


def look_at_patches(metric: Any, given: Given) -> str:
    """Let a metric look with ``metrics.image``; the label of the network.

    Raises Unavailable without a network, for several sizes, and for videos smaller than a patch.
    """
    network = given.network("image")
    given.need_one_size()
    given.need_side(SIDE)
    metric.look = network.embed
    return str(network.label)


def samples(seen_TPD: Tensor) -> Tensor:
    """Every patch is a sample, [T P, D]."""
    return seen_TPD.flatten(0, 1)
