"""HD-FVD: FVD over patches at full resolution (UltraGen, arXiv 2510.18775, appendix D).

16 frames spread over the clip are cut into adjacent patches of the network's size. P patches,
S the side of the network's input, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.config.output import SCORED_FRAMES
from pixelwizard.evaluation.frechet import FrechetDistance
from pixelwizard.evaluation.metrics.base import Given, Sampling
from pixelwizard.evaluation.reference import OfVideos

PATCHES_AT_ONCE = 4


class HDFrechetVideoDistance(OfVideos, FrechetDistance):
    """Distance to the real videos, patch by patch."""

    sampling = Sampling("uniform", SCORED_FRAMES, least=SCORED_FRAMES)
    name = "hd-fvd"

    def look_with(self, given: Given) -> str:
        """Cut patches for the video network; the videos must be of one size and as large."""
        self.network = given.network("video")
        side = self.network.facts.side
        given.need_one_size()
        given.need_side(side)
        self.look = lambda frame, before: patches(frame, side)
        return f"{self.network.label}/patch{side}"

    def features(self, seen: Tensor) -> Tensor:
        """A sample per patch, [P, D], from uint8 [16, P, S, S, 3]; a few are floats at a time."""
        parts = seen.transpose(0, 1).split(PATCHES_AT_ONCE)
        return torch.cat([self.network.features(part.permute(0, 4, 1, 2, 3)) for part in parts])


def patches(frame_HWC: Tensor, side: int) -> Tensor:
    """[H, W, 3] -> [P, side, side, 3], row by row; the rest at the right and bottom is dropped."""
    rows, columns = frame_HWC.shape[0] // side, frame_HWC.shape[1] // side
    whole = frame_HWC[: rows * side, : columns * side]
    return whole.reshape(rows, side, columns, side, 3).transpose(1, 2).reshape(-1, side, side, 3)
