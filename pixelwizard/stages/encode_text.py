"""First stage: a text becomes the embedding that both samplers see."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.wan.umt5 import TextEncoder


class EncodeText:
    """Encodes one text at a time, so that an embedding does not depend on its neighbours."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """-> ``[L, text_dim]``, L the tokens of the text, at most text_len."""
        return self.encoder([text])[0]
