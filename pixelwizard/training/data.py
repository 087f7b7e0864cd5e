"""The batches of a training, for every trained network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L

from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Source
from pixelwizard.data.labelled import LabelledBatches, Maker, held_out
from pixelwizard.data.loading import Loader
from pixelwizard.training.stopwatch import Stopwatch

HELD_OUT_BATCHES = 8
"""How many batches of held-out captions a feature network is measured on."""


@dataclass(frozen=True)
class Examples:
    """``batches(first, rank, ranks)`` start at number ``first`` and never end.

    ``held_out`` batches are always the same.
    A checkpoint continues only with the same ``identity``. ``workers`` processes read.
    ``shown`` are the examples that samples are made of.
    """

    identity: str
    batches: Callable[[int, int, int], Any]
    held_out: Any | None
    workers: int = 0
    shown: Source | None = None


class TrainingData(L.LightningDataModule):
    """The batches from the next step on; ``watch`` measures the time spent waiting for them."""

    def __init__(self, examples: Examples, accumulate: int, watch: Stopwatch) -> None:
        super().__init__()
        self.examples, self.accumulate, self.watch = examples, accumulate, watch

    def train_dataloader(self) -> Iterable[Any]:
        assert self.trainer is not None
        first = self.trainer.global_step * self.accumulate
        ranks = (self.trainer.global_rank, self.trainer.world_size)
        batches = self.examples.batches(first, *ranks)
        return Waited(Loader(batches, self.examples.workers), self.watch)

    def val_dataloader(self) -> Any:
        return [] if self.examples.held_out is None else Loader(self.examples.held_out)


@dataclass(frozen=True)
class Waited:
    """Batches, with the time spent waiting for them."""

    batches: Iterable[Any]
    watch: Stopwatch

    def __iter__(self) -> Iterator[Any]:
        batches, end = iter(self.batches), object()
        while True:
            before = self.watch.enter("data")
            batch = next(batches, end)
            self.watch.enter(before)
            if batch is end:
                return
            yield batch


def labelled_examples(config: TrainConfig, make: Maker) -> Examples:
    """The examples of a feature network, which ``make`` draws from procedural clips."""
    return Examples(
        f"shapes for {config.part}",
        lambda first, rank, ranks: LabelledBatches(make, config.seed, first),
        held_out(make, HELD_OUT_BATCHES),
    )
