"""MUSIQ of the frames at their own size, with the weights that ``metrics.musiq`` names.

Ke et al., arXiv 2108.05997. The scale is that of the data the weights learned, about 0..100.
VBench's imaging quality is MUSIQ too, of frames that were made smaller: other values.
"""

from __future__ import annotations

from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric


class MUSIQ(VideoMetric):
    """MUSIQ, the mean over frames; more is better."""

    sampling = Sampling("uniform", 8)

    def prepare(self, given: Given) -> None:
        """Load the network."""
        network = given.network("musiq")
        self.look = network.rate
        self.convention = f"{network.convention}/{self.sampling}/n={{n}}"
