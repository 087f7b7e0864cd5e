"""Last stage: a latent becomes the frames of a video, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pixelwizard.config.geometry import WHOLE, Tiles
from pixelwizard.models.wan.tiling import tiled_frames, whole_frames
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.parallel.spatial import ALONE, Peers


class Decode:
    """Decodes whole frames (seamless, exact), or in ``tiles`` that are blended.

    Either way memory does not grow with the number of frames on the device of the networks. Whole
    frames leave as they are made; tiles need less for a frame, but keep the clip as uint8 on the
    host until the last tile is blended in, unless every tile has its own rank.

    Several ``peers`` decode a clip together: rows of whole frames, or a tile each. The frames are
    those of one process and come out of the rank that writes; the others give none, and must be
    exhausted all the same, as every rank waits for the others.
    """

    def __init__(self, vae: WanVAE, tiles: Tiles = WHOLE, peers: Peers = ALONE) -> None:
        self.vae, self.tiles, self.peers = vae, tiles, peers

    @torch.no_grad()
    def __call__(self, latent_CTHW: Tensor) -> Iterator[np.ndarray]:
        """Normalised latent -> frames ``[1, H, W, 3]``, uint8 RGB."""
        weight = next(self.vae.parameters())
        latent = latent_CTHW.unsqueeze(0).to(weight.device, weight.dtype)
        tiles = self.tiles.within(*latent.shape[3:])
        if tiles.count == 1:
            frames = whole_frames(self.vae, latent, self.peers)
        else:
            frames = tiled_frames(self.vae, latent, tiles, self.peers)
        for frame in frames:
            yield frame[None]
