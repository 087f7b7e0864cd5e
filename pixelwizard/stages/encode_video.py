"""In the anchor's place: the frames of a given clip or picture become a latent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.stages.decode import stream_pixels

BEST = 100.0
"""Decibels of equal frames, whose PSNR has no bound."""


class EncodeVideo:
    """The mean of the autoencoder's latent; a frame at a time, so clips of any length fit."""

    def __init__(self, vae: WanVAE) -> None:
        self.vae = vae

    @torch.no_grad()
    def __call__(self, frames: Iterable[np.ndarray]) -> Tensor:
        """4n+1 frames ``[H, W, 3]``, uint8 RGB -> the normalised latent, float32 CTHW."""
        return self.vae.encode_stream(self._as_video(frames))[0].float()

    @torch.no_grad()
    def fidelity(self, latent_CTHW: Tensor, frames: Iterable[np.ndarray]) -> float:
        """PSNR in dB of what the latent decodes to against the ``frames`` that it was made of."""
        weight = next(self.vae.parameters())
        latent = latent_CTHW.unsqueeze(0).to(weight.device, weight.dtype)
        errors = [
            float((decoded.float() - torch.from_numpy(frame).to(decoded.device)).square().mean())
            for decoded, frame in zip(stream_pixels(self.vae, latent), frames, strict=True)
        ]
        error = sum(errors) / len(errors)
        return min(BEST, 20 * math.log10(255) - 10 * math.log10(error)) if error else BEST

    def _as_video(self, frames: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Each frame as ``[1, 3, 1, H, W]`` in [-1, 1] where the autoencoder is."""
        device = next(self.vae.parameters()).device
        for frame in frames:
            pixels = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None, :, None]
            yield pixels.float() / 127.5 - 1
