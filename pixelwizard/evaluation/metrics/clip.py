"""The CLIP score: how well a video's frames match its caption.

torchmetrics' ``CLIPScore`` (max(100 cos, 0), arXiv 2104.08718), averaged over 8 frames. D features.
"""

from __future__ import annotations

from torch import Tensor

from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric


class CLIPScore(VideoMetric):
    """How well frames fit the caption, 0..100."""

    sampling = Sampling("uniform", 8)

    def prepare(self, given: Given) -> None:
        """Load the CLIP of the settings."""
        self.network = given.network("clip")
        self.look = self.network.embed
        self.convention = f"{self.network.convention}/{self.sampling}/n={{n}}"
        self.cut = 0

    def update(self, embeddings_TD: Tensor, caption: str) -> None:  # type: ignore[override]
        """Take the frames' embeddings of a video, and its caption."""
        cosines = (embeddings_TD * self.network.texts([caption])).sum(dim=1)
        super().update((100 * cosines).clamp(min=0).double())
        if self.network.is_cut(caption):
            self.cut += 1
            self.warnings = [
                f"{self.cut} captions were cut after {self.network.facts.tokens} tokens"
            ]
