"""Last stage: a latent becomes the frames of a video, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pixelwizard.wan.vae import WanVAE


class Decode:
    """Decodes in the order of time; memory does not grow with the number of frames."""

    def __init__(self, vae: WanVAE) -> None:
        self.vae = vae

    @torch.no_grad()
    def __call__(self, latent_CTHW: Tensor) -> Iterator[np.ndarray]:
        """Normalised latent -> chunks of frames ``[t, H, W, 3]``, uint8 RGB; t is 1, then 4."""
        weight = next(self.vae.parameters())
        latent = latent_CTHW.unsqueeze(0).to(weight.device, weight.dtype)
        for chunk in self.vae.decode_stream(latent):
            yield to_frames(chunk[0])


def to_frames(video_CTHW: Tensor) -> np.ndarray:
    """[-1, 1], clamped, -> ``[T, H, W, 3]`` uint8."""
    pixels = ((video_CTHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
