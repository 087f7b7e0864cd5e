"""HD-LPIPS: HD-MSE with the distance of AlexNet's features; needs torchvision.

LPIPS v0.1 of torchmetrics; its AlexNet comes from torchvision, which fetches it once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.evaluation.metrics.base import Given, VideoMetric, as_image
from pixelwizard.evaluation.metrics.hd_mse import lost
from pixelwizard.evaluation.names import require_lpips


class HDLPIPS(VideoMetric):
    """HD-LPIPS with AlexNet; more is more detail."""

    convention = "alex@7be5be79/k345/16f-uniform/n={n}"
    look = staticmethod(lambda frame, before: frame)

    def prepare(self, given: Given) -> None:
        """Load the network. Raises ConfigError where it is missing."""
        require_lpips()
        from torchmetrics.image import LearnedPerceptualImagePatchSimilarity as LPIPS

        self.network = LPIPS(net_type="alex", normalize=True, sync_on_compute=False)

    @torch.no_grad()
    def update(self, frames_THWC: Tensor) -> None:
        """Take the frames of a video, uint8."""

        def distance(one: Tensor, two: Tensor) -> float:
            return float(self.network(one, two.clamp(0, 1)))

        values = [lost(as_image(frame), distance) for frame in frames_THWC]
        super().update(torch.tensor(values, dtype=torch.float64))
