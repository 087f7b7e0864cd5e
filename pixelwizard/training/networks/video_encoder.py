"""The video network of the shapes, whose features measure the videos of ``tiny``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from pixelwizard.data.batches import Batch
from pixelwizard.data.labelled import LabelledClips
from pixelwizard.evaluation.tiny import (
    DAMAGES,
    FRAMES,
    PLACES,
    SIDE,
    SLOTS,
    VideoEncoder,
    save_video_encoder,
)
from pixelwizard.training.data import Examples, labelled_examples
from pixelwizard.training.networks.base import TrainedNetwork

PLACE_WEIGHT, DAMAGE_WEIGHT = 4.0, 8.0


class TrainedVideoEncoder(TrainedNetwork):
    """Tell colour, shape, motion and background, where the object is, and what is damaged."""

    network: VideoEncoder

    def make(self) -> VideoEncoder:
        return VideoEncoder()

    def open_data(self) -> Examples:
        return labelled_examples(
            self.config, LabelledClips(self.config.objective.batch, SIDE, FRAMES)
        )

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

    def export(self, folder: Path, average: Any, last: Any) -> None:
        save_video_encoder(average, folder)
