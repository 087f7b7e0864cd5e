"""Video-MMD: JEDi's distance between a video network's features of generated and real videos.

arXiv 2410.05203: squared discrepancy with the kernel (x.y / D)^2, biased, times 100. JEDi itself
takes the features of V-JEPA; here ``metrics.video`` names the network, and the recipe says which.
Unlike FVD it can be used where there are fewer videos than features.
"""

from __future__ import annotations

from torch import Tensor

from pixelwizard.config.output import SCORED_FRAMES
from pixelwizard.evaluation.kernel import Kernel, KernelDistance
from pixelwizard.evaluation.metrics.base import Given, Sampling
from pixelwizard.evaluation.networks import VideoNetwork


class VideoKernelDistance(KernelDistance):
    """Distance to the real videos."""

    sampling = Sampling("first", SCORED_FRAMES, least=SCORED_FRAMES)
    name = "video-mmd"
    temporal = True
    kernel = Kernel(2, 0.0)
    biased = True
    scale = 100.0

    def look_with(self, given: Given) -> str:
        """See frames as the video network wants them."""
        self.network: VideoNetwork = given.network("video")
        self.look = self.network.fit
        return f"{self.network.convention}/poly2-biased-x100"

    def features(self, seen: Tensor) -> Tensor:
        """A sample per video."""
        return self.network.sample(seen)
