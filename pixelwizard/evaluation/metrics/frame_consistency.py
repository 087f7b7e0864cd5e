"""Frame consistency: the CLIP similarity of a video's frames.

The mean cosine of each frame with the previous and with the first one, as in VBench's background
consistency, over the 8 frames of the CLIP score. D features.
"""

from __future__ import annotations

from torch import Tensor

from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric


class FrameConsistency(VideoMetric):
    """How alike frames are to the one before and to the first, -1..1."""

    sampling = Sampling("uniform", 8, least=2)
    temporal = True

    def prepare(self, given: Given) -> None:
        """Load the CLIP of the settings."""
        network = given.network("clip")
        self.look = network.embed
        self.convention = f"{network.convention}/{self.sampling}/n={{n}}"

    def update(self, embeddings_TD: Tensor) -> None:
        """Take the frames' embeddings of a video."""
        before = (embeddings_TD[1:] * embeddings_TD[:-1]).sum(dim=1)
        first = (embeddings_TD[1:] * embeddings_TD[:1]).sum(dim=1)
        super().update(((before + first) / 2).double())
