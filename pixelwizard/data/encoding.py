"""Frozen encoders of training examples: pixels -> latents, captions -> embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.data.examples import as_float
from pixelwizard.models.wan.umt5 import TextEncoder
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import load_text_encoder, load_vae

REMEMBERED = 1024
"""How many texts' embeddings are kept."""


class Encoding:
    """Text encoder and autoencoder, loaded at their first use on the device of that use."""

    def __init__(self, backbone: BackboneSettings, vae_dtype: torch.dtype | None = None) -> None:
        self.backbone = backbone
        self.dtype = getattr(torch, backbone.dtype)
        self.vae_dtype = vae_dtype or self.dtype
        self._vae: WanVAE | None = None
        self._text: TextEncoder | None = None
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def latent(self, video_1CTHW: Tensor) -> Tensor:
        """[1, 3, T, H, W], uint8 or in [-1, 1] -> the normalised latent [C, t, h, w], float32."""
        if self._vae is None:
            self._vae = load_vae(self.backbone, video_1CTHW.device, self.vae_dtype)
        return self._vae.encode(as_float(video_1CTHW, self.vae_dtype))[0].float()

    @torch.no_grad()
    def texts(self, texts: Sequence[str], device: torch.device | str = "cpu") -> list[Tensor]:
        """One [L_i, text_dim] tensor per text; each is encoded alone."""
        if self._text is None:
            self._text = load_text_encoder(self.backbone, device, self.dtype)
        if len(self._known) > REMEMBERED:
            self._known.clear()
        for text in texts:
            if text not in self._known:
                self._known[text] = self._text([text])[0]
        return [self._known[text] for text in texts]
