"""The CLIP of the shapes, which scores the videos of ``tiny`` against their captions."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pixelwizard.config.train import TrainConfig
from pixelwizard.data import shapes
from pixelwizard.data.batches import Batch
from pixelwizard.data.labelled import CaptionedFrames
from pixelwizard.evaluation.tiny import SIDE, new_clip, save_clip
from pixelwizard.models.wan.umt5 import load_tokenizer, write_word_tokenizer
from pixelwizard.training.data import Examples, labelled_examples
from pixelwizard.training.networks.base import TrainedNetwork

if TYPE_CHECKING:
    from transformers import CLIPModel

MOST_LOGIT_SCALE = 4.6052
"""The logarithm of 100, the limit of CLIP's paper (arXiv 2103.00020)."""


class TrainedCLIP(TrainedNetwork):
    """Contrastive loss in both directions; captions that a frame cannot tell apart count as equal.

    A frame shows no motion: captions that differ in it alone share the target.
    """

    network: CLIPModel

    def __init__(self, config: TrainConfig) -> None:
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        super().__init__(config)
        with TemporaryDirectory() as folder:
            write_word_tokenizer(folder, shapes.WORDS)
            self.tokenizer = load_tokenizer(folder)
        colours = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)  # of CLIP's preprocessing, in 0..1
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in colours)

    def make(self) -> CLIPModel:
        return new_clip()

    def open_data(self) -> Examples:
        return labelled_examples(self.config, CaptionedFrames(self.config.objective.batch, SIDE))

    def is_matrix(self, name: str, parameter: Tensor) -> bool:
        """Whether Muon takes a parameter: the matrices of the layers."""
        return ".layers." in name and parameter.ndim == 2

    def loss(self, network: Any, batch: Batch) -> Tensor:
        captions = batch["caption"]
        tokens = self.tokenizer(captions, padding=True, return_tensors="pt")
        found = network(
            input_ids=tokens["input_ids"].to(self.device),
            attention_mask=tokens["attention_mask"].to(self.device),
            pixel_values=(batch["image"].float() / 255 - self.mean) / self.std,
        )
        with torch.no_grad():
            network.logit_scale.clamp_(max=MOST_LOGIT_SCALE)
        still = [_without_motion(caption) for caption in captions]
        same = torch.tensor([[float(a == b) for b in still] for a in still])
        target = same / same.sum(1, keepdim=True)
        logits = found.logits_per_image
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2

    def export(self, folder: Path, average: Any, last: Any) -> None:
        save_clip(average, folder)


def _without_motion(caption: str) -> str:
    words = caption.split()
    return " ".join([*words[:3], *words[words.index("over") :]])
