"""Last stage: a latent becomes the frames of a video, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pixelwizard.wan.tiling import stream_frames, tiled_frames
from pixelwizard.wan.vae import WanVAE


class Decode:
    """Decodes in the order of time, or in ``tiles`` strips sharing ``overlap`` latent columns.

    Whole frames need memory that does not grow with their number. Strips need less for a frame, but
    keep the clip as uint8 until the last strip is blended in.
    """

    def __init__(self, vae: WanVAE, tiles: int = 1, overlap: int = 3) -> None:
        self.vae, self.tiles, self.overlap = vae, tiles, overlap

    @torch.no_grad()
    def __call__(self, latent_CTHW: Tensor) -> Iterator[np.ndarray]:
        """Normalised latent -> chunks of frames ``[t, H, W, 3]``, uint8 RGB."""
        weight = next(self.vae.parameters())
        latent = latent_CTHW.unsqueeze(0).to(weight.device, weight.dtype)
        if self.tiles == 1:
            yield from stream_frames(self.vae, latent)
        else:
            yield tiled_frames(self.vae, latent, self.tiles, self.overlap)
