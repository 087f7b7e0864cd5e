"""First stage: a text becomes the embedding that conditions both samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.models.wan.umt5 import TextEncoder, clean, unknown_words


class EncodeText:
    """Encodes one text at a time, so an embedding does not depend on its neighbours."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder

    @torch.no_grad()
    def __call__(self, text: str) -> Tensor:
        """-> ``[L, text_dim]``, L the tokens of the text, at most text_len."""
        return self.encoder([text])[0]

    def remarks(self, text: str) -> list[str]:
        """What the encoder cannot take in of a text: words unknown to it, tokens past its end."""
        found = []
        unknown = unknown_words(self.encoder.tokenizer, text)
        if unknown:
            found.append(f"unknown words: {', '.join(unknown)}")
        tokens = len(self.encoder.tokenizer(clean(text))["input_ids"])
        if tokens > self.encoder.text_len:
            found.append(f"only the first {self.encoder.text_len} of {tokens} tokens are read")
        return found
