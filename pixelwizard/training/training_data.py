"""The batches of a training, whatever part is trained."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from pixelwizard.config.objective import STAGES
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batches, HeldOut
from pixelwizard.data.crops import CropBatches, held_out_crops
from pixelwizard.data.labelled import LabelledBatches, held_out
from pixelwizard.data.sources import Sources, open_sources
from pixelwizard.training.encoders import maker

HELD_OUT_BATCHES = 8
"""How many batches of held-out captions a feature network is measured on."""


class TrainingData(L.LightningDataModule):
    """Batches by number, from that of the next step on; held-out ones, always the same.

    ``identity`` names the data: a state of a training goes on with the same alone.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.sources: Sources | None = open_sources(config) if config.part in STAGES else None

    @property
    def identity(self) -> str:
        """Equal for equal data only."""
        return self.sources.train.identity if self.sources else f"shapes for {self.config.part}"

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        config, first = self.config, self.trainer.global_step * self.config.trainer.accumulate
        if config.part == "vae":
            return loader(CropBatches(config, first), config.data.workers)
        if self.sources is None:
            return loader(LabelledBatches(maker(config), config.seed, first))
        batches = Batches(
            self.sources.train,
            config.objective.batch,
            config.seed,
            first,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        return loader(batches, 0 if self.sources.train.growing else config.data.workers)

    def val_dataloader(self) -> Any:
        config = self.config
        if self.sources is not None:
            if self.sources.held_out is None:
                return []
            batches: Any = HeldOut(self.sources.held_out, config.objective.batch)
        elif config.part == "vae":
            batches = held_out_crops(config)
        else:
            batches = held_out(maker(config), HELD_OUT_BATCHES)
        return loader(batches)


def loader(batches: Any, workers: int = 0) -> DataLoader[Any]:
    """Hands the batches on as they are; leaves the global random numbers alone."""
    own = torch.Generator()
    return DataLoader(batches, batch_size=None, num_workers=workers, generator=own)
