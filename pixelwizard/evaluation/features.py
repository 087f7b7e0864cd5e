"""The samples of a video that distances compare: one of all its frames, or one of every patch.

T frames, P patches of a frame, D features.
"""

from __future__ import annotations

from torch import Tensor

from pixelwizard.config.output import SCORED_FRAMES
from pixelwizard.evaluation.metrics.base import Given, Sampling
from pixelwizard.evaluation.networks import ImageNetwork, VideoNetwork
from pixelwizard.evaluation.reference import SetDistance

SIDE = 224


class OfVideos(SetDistance):
    """A sample per video, by the network of ``metrics.video``."""

    sampling = Sampling("first", SCORED_FRAMES, least=SCORED_FRAMES)
    temporal = True

    def look_with(self, given: Given) -> str:
        """See frames as the video network wants them."""
        self.network: VideoNetwork = given.network("video")
        self.look = self.network.fit
        return self.network.convention

    def features(self, seen: Tensor) -> Tensor:
        """[1, D]."""
        return self.network.sample(seen)


class OfPatches(SetDistance):
    """A sample per patch at full resolution, by the network of ``metrics.image``."""

    sampling = Sampling("uniform", 16, side=SIDE, patches=ImageNetwork.patches)

    def look_with(self, given: Given) -> str:
        """See patches with the image network.

        Raises Unavailable without one, for several sizes, and for videos smaller than a patch.
        """
        network: ImageNetwork = given.network("image")
        given.need_one_size()
        given.need_side(SIDE)
        self.look = network.embed
        return network.label

    def features(self, seen_TPD: Tensor) -> Tensor:
        """[T P, D]."""
        return seen_TPD.flatten(0, 1)
