"""The training of the feature networks of the shapes: a CLIP and a video network."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from pixelwizard.config.train import TrainConfig
from pixelwizard.data import shapes
from pixelwizard.data.batches import Batch
from pixelwizard.data.labelled import CaptionedFrames, LabelledClips
from pixelwizard.evaluation.tiny import DAMAGES, FRAMES, PLACES, SIDE, SLOTS, VideoEncoder
from pixelwizard.models.wan.umt5 import load_tokenizer, write_word_tokenizer
from pixelwizard.training.modules import TrainingModule

if TYPE_CHECKING:
    from transformers import CLIPModel

PLACE_WEIGHT, DAMAGE_WEIGHT = 4.0, 8.0
MOST_LOGIT_SCALE = 4.6052
"""The logarithm of 100, the limit of CLIP's paper (arXiv 2103.00020)."""

Maker = CaptionedFrames | LabelledClips


def maker(config: TrainConfig) -> Maker:
    """What makes the batches of an encoder's training."""
    batch = config.objective.batch
    if config.part == "clip_encoder":
        return CaptionedFrames(batch, SIDE)
    return LabelledClips(batch, SIDE, FRAMES)


class VideoEncoderModule(TrainingModule):
    """Tell colour, shape, motion and background, where the object is, and what is damaged."""

    network: VideoEncoder

    def is_matrix(self, name: str, parameter: Tensor) -> bool:
        """Whether Muon takes a parameter: all but the first convolution and the answers."""
        inner = not name.startswith(("frames.0.", "answers."))
        return inner and parameter.ndim >= 2

    def loss(self, network: Any, batch: Batch) -> Tensor:
        answers = network(batch["video"].float() / 127.5 - 1)
        *slots, places, damage = answers.split([*SLOTS, PLACES, len(DAMAGES)], dim=1)
        loss = PLACE_WEIGHT * mse_loss(places, batch["places"])
        loss = loss + DAMAGE_WEIGHT * mse_loss(damage, batch["damage"])
        for logits, wanted in zip(slots, batch["slots"].T, strict=True):
            loss = loss + cross_entropy(logits, wanted)
        return loss


class CLIPModule(TrainingModule):
    """Contrast frames and captions both ways; what a frame cannot tell apart counts as equal.

    A frame shows no motion: captions that differ in it alone share the target.
    """

    network: CLIPModel

    def __init__(self, config: TrainConfig, network: CLIPModel) -> None:
        super().__init__(config, network)
        with TemporaryDirectory() as folder:
            write_word_tokenizer(folder, shapes.WORDS)
            self.tokenizer = load_tokenizer(folder)
        self.mean, self.std = (torch.tensor(v).view(1, 3, 1, 1) for v in normalisation())

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


def normalisation() -> tuple[list[float], list[float]]:
    """Mean and deviation that CLIP's preprocessing takes from colours in 0..1."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    return OPENAI_CLIP_MEAN, OPENAI_CLIP_STD


def _without_motion(caption: str) -> str:
    words = caption.split()
    return " ".join([*words[:3], *words[words.index("over") :]])
