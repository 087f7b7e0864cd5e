"""The figures of one clip: distances of latents and of pixels, features of networks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.config.geometry import Geometry
from pixelwizard.config.output import SCORED_FRAMES, MetricsSettings
from pixelwizard.data.examples import to_video
from pixelwizard.evaluation.metrics.frame_mmd import FrameKernelDistance
from pixelwizard.evaluation.names import (
    IMAGE,
    NETWORKS,
    FeatureNetwork,
    missing_files,
    network_folder,
)
from pixelwizard.evaluation.networks import ImageNetwork, VideoNetwork
from pixelwizard.models.wan.vae import to_pixels

EVERY, SEEN = 4, Geometry(224, 224, 1)
"""The frames that the image network sees, and their size there."""


def mse(latent: Tensor, goal: Tensor) -> float:
    """Mean square distance."""
    return float((latent - goal).square().mean())


def psnr(video: np.ndarray, real: np.ndarray) -> float:
    """dB over all pixels and frames of uint8 clips."""
    error = float(np.mean((video.astype(np.float32) - real) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def enlarge(video: np.ndarray, size: Geometry) -> np.ndarray:
    """uint8 frames at another size, bicubically."""
    frames = to_video(video)[0].transpose(0, 1)
    large = F.interpolate(frames, (size.height, size.width), mode="bicubic")
    return to_pixels(large.transpose(0, 1)).numpy()


class Features:
    """Features of clips, uint8 [T, H, W, 3]; each network is loaded when it is first needed."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @cached_property
    def video(self) -> VideoNetwork:
        return VideoNetwork(*self._place("tiny-video"), self.device)

    @cached_property
    def image(self) -> ImageNetwork:
        return ImageNetwork(*self._place(IMAGE), self.device)

    def _place(self, name: str) -> tuple[FeatureNetwork, Path]:
        return NETWORKS[name], network_folder(NETWORKS[name], MetricsSettings())

    @property
    def has_images(self) -> bool:
        """Whether the image network is installed: it comes with an extra."""
        return not missing_files(NETWORKS[IMAGE], MetricsSettings())

    def of_video(self, frames: np.ndarray) -> list[float]:
        """What tiny-video sees in the first frames of a clip."""
        fitted = [self.video.fit(torch.from_numpy(f.copy())) for f in frames[:SCORED_FRAMES]]
        return self.video.sample(torch.stack(fitted))[0].tolist()

    def of_frames(self, frames: np.ndarray) -> list[float]:
        """What the image network sees in some frames, stretched: their mean, their change."""
        seen = self.image.embed(torch.from_numpy(enlarge(frames[::EVERY], SEEN)))
        return FrameKernelDistance().features(seen[:, None])[0].tolist()
