"""Batches of examples: those of a step depend only on the seed and the step.

A batch has ``latent`` [B, C, t, h, w] and for the detail stage ``condition``, or instead the pixels
``video`` and ``small`` (B of [1, 3, T, H, W]), which are still to be encoded. It has ``caption``, a
text per example, perhaps the embeddings ``text`` and ``empty``, and ``step``, the batch's number.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from pixelwizard.data.examples import Clips, Recipe, Unusable, example
from pixelwizard.io.terminal import say

Batch = dict[str, Any]

log = logging.getLogger(__name__)


class Source(ABC):
    """Examples by number; sources with different examples have a different ``identity``."""

    identity: str
    growing = False
    """Whether examples are still being written, which the process that reads waits for."""

    @abstractmethod
    def size(self, step: int) -> int:
        """How many examples step ``step`` may draw from; it depends on the step alone."""

    @abstractmethod
    def batch(self, rows: Sequence[int], rng: random.Random) -> Batch:
        """Some examples; their random choices (which caption) are drawn from ``rng``."""


class ClipExamples(Source):
    """Clips as pixels, cropped and degraded again at every use.

    All processes of a loader share the list of unreadable clips: each is named once.
    """

    def __init__(self, clips: Clips, recipe: Recipe) -> None:
        self.clips, self.recipe, self.identity = clips, recipe, clips.identity
        self._unusable = torch.zeros(len(clips), dtype=torch.bool).share_memory_()

    def size(self, step: int) -> int:
        return len(self.clips)

    def batch(self, rows: Sequence[int], rng: random.Random) -> Batch:
        return joined([self._example(row, rng) for row in rows])

    def _example(self, row: int, rng: random.Random) -> Batch:
        """The clip, or where it turns out to be damaged the next one that is not."""
        for number in range(row, row + len(self.clips)):
            number %= len(self.clips)
            own = random.Random(rng.random())
            try:
                videos = example(self.clips, number, self.recipe, own)
            except Unusable as problem:
                if not self._unusable[number]:
                    self._note(number, str(problem))
                continue
            return {**videos, "caption": own.choice(self.clips.captions(number))}
        raise ValueError(f"none of the {len(self.clips)} clips can be read; run.log says why")

    def _note(self, number: int, problem: str) -> None:
        """Name a clip in the log; on the terminal their number, each time that it has doubled."""
        log.warning("skipped %s", problem)
        self._unusable[number] = True
        lost = int(self._unusable.sum())
        if lost & (lost - 1) == 0:
            say(f"{lost} of {len(self.clips)} clips could not be read so far; run.log names them")


class Batches(IterableDataset[Batch]):
    """Endless batches, from number ``first`` on; of ``ranks`` equal shares that of ``rank``.

    Several workers of a loader take the numbers in turn, so the order is theirs too.
    """

    def __init__(
        self, source: Source, batch: int, seed: int, first: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.source, self.count, self.seed, self.first = source, batch, seed, first
        self.rank, self.ranks = rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        for step in steps(self.first):
            size, count = self.source.size(step), self.count * self.ranks
            rng = random.Random(f"{self.seed} {step}")
            enough = size >= count
            rows = rng.sample(range(size), count) if enough else rng.choices(range(size), k=count)
            own = random.Random(f"{self.seed} {step} {self.rank}")
            yield {**self.source.batch(rows[self.rank :: self.ranks], own), "step": step}


def steps(first: int) -> Iterator[int]:
    """Numbers of batches from ``first`` on; several workers of a loader take them in turn."""
    worker = get_worker_info()
    return count(first) if worker is None else count(first + worker.id, worker.num_workers)


class HeldOut(Dataset[Batch]):
    """All examples of a source in batches, always the same."""

    def __init__(self, source: Source, batch: int) -> None:
        self.source, self.count = source, batch

    def __len__(self) -> int:
        return -(-self.source.size(0) // self.count)

    def __getitem__(self, index: int) -> Batch:
        rows = range(index * self.count, min((index + 1) * self.count, self.source.size(0)))
        if not len(rows):
            raise IndexError(index)
        return {**self.source.batch(rows, random.Random(f"held out {index}")), "step": index}


def joined(examples: Sequence[Batch]) -> Batch:
    """Examples as a batch: latents stacked, everything else side by side."""
    batch: Batch = {name: [one[name] for one in examples] for name in examples[0]}
    for name in ("latent", "condition"):
        if name in batch:
            batch[name] = torch.stack(batch[name])
    return batch
