"""Video-MMD: JEDi's distance between a video network's features of generated and real videos.

arXiv 2410.05203: squared discrepancy with the kernel (x.y / D)^2, biased, times 100. JEDi itself
takes the features of V-JEPA; here ``metrics.video`` names the network, and the recipe says which.
Unlike FVD it can be used where there are fewer videos than features.
"""

from __future__ import annotations

from pixelwizard.evaluation.kernel import Kernel, KernelDistance
from pixelwizard.evaluation.reference import OfVideos


class VideoKernelDistance(OfVideos, KernelDistance):
    """Distance to the real videos."""

    name = "video-mmd"
    kernel = Kernel(2, 0.0)
    estimator = "/poly2-biased-x100"
    biased = True
    scale = 100.0
