"""Frame-MMD: the kernel distance between videos, each described by the features of its frames.

One sample per video: the mean of its frames' features and the root mean square of their change from
one chosen frame to the next, so that a video that stands still is not like one that moves. Unbiased
with a cubic kernel, like KID, so it can be used from a dozen videos on, where a Fréchet distance
cannot. T frames, P patches, D features.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pixelwizard.evaluation.kernel import KernelDistance
from pixelwizard.evaluation.reference import OfPatches


class FrameKernelDistance(OfPatches, KernelDistance):
    """Distance to the real videos, video by video; about 0 for videos of the same kind."""

    sampling = replace(OfPatches.sampling, least=2)
    name = "frame-mmd"
    estimator = "/mean+change/poly3-unbiased"
    temporal = True

    def features(self, seen_TPD: Tensor) -> Tensor:
        """[1, 2 D]."""
        frames = seen_TPD.mean(dim=1)
        change = (frames[1:] - frames[:-1]).square().sum(dim=0) / (len(frames) - 1)
        return torch.cat([frames.mean(dim=0), change.sqrt()])[None]
