"""Examples as latents: sharded files that ``encode`` and the cache of the shapes write.

A shard holds the examples of ``shard`` consecutive clips that could be used: ``latent`` float16
[N, C, t, h, w], for the detail stage ``condition`` (the latent of the anchor that belongs to it),
the embeddings ``text.N.K`` [L, E] of every caption and ``empty`` of the empty text, the captions.
Its name says which clips it holds, so that several processes can write, be interrupted and
continue. A killed process leaves no half-written shard.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pixelwizard.data.batches import Batch, Source, joined
from pixelwizard.data.encoding import Encoding
from pixelwizard.data.examples import Clips, Recipe, Unusable, example
from pixelwizard.wan.files import write

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shards:
    """The shards of ``count`` clips of a split, of ``shard`` clips each."""

    folder: Path
    split: str
    count: int
    shard: int

    @cached_property
    def paths(self) -> list[Path]:
        """All shards that there are when the folder is full."""
        shards = -(-self.count // self.shard)
        return [self.folder / f"{self.split}-{index:05d}.safetensors" for index in range(shards)]

    @property
    def present(self) -> int:
        """How many of them are there."""
        return sum(path.exists() for path in self.paths)

    def numbers(self, index: int) -> range:
        """The clips of a shard."""
        return range(index * self.shard, min((index + 1) * self.shard, self.count))


@torch.inference_mode()
def encoded(
    encoding: Encoding, clips: Clips, number: int, recipe: Recipe, device: torch.device
) -> dict[str, Tensor]:
    """The tensors of one example. Raises Unusable."""
    draw = random.Random(f"{recipe.seed} {number}")
    videos = example(clips, number, recipe, draw)
    names = {"video": "latent", "small": "condition"}
    return {
        names[name]: encoding.latent(video.to(device)).half().cpu()
        for name, video in videos.items()
    }


def write_shard(
    encoding: Encoding, clips: Clips, shards: Shards, index: int, recipe: Recipe, device: str
) -> None:
    """Encode and write one shard, without the clips that cannot be used after all."""
    rows: list[dict[str, Tensor]] = []
    captions: list[list[str]] = []
    for number in shards.numbers(index):
        try:
            rows.append(encoded(encoding, clips, number, recipe, torch.device(device)))
            captions.append(clips.captions(number))
        except Unusable as problem:
            log.warning("skipped %s", problem)
    tensors = {name: torch.stack([row[name] for row in rows]) for name in (rows or [{}])[0]}
    tensors["empty"] = encoding.texts([""], device)[0].cpu()
    for row, texts in enumerate(captions):
        for column, embedding in enumerate(encoding.texts(texts, device)):
            tensors[f"text.{row}.{column}"] = embedding.cpu().clone()
    facts = {"captions": json.dumps(captions, ensure_ascii=False)}
    write(shards.paths[index], lambda part: save_file(tensors, part, metadata=facts))


def fill(
    encoding: Encoding,
    clips: Clips,
    shards: Shards,
    recipe: Recipe,
    device: str = "cpu",
    worker: int = 0,
    of: int = 1,
) -> Iterator[Path]:
    """Write the shards that are missing, every ``of``-th of them; yields each finished one."""
    for index, path in enumerate(shards.paths):
        if index % of == worker and not path.exists():
            write_shard(encoding, clips, shards, index, recipe, device)
            yield path


class LatentExamples(Source):
    """The examples of shards; those of a shard are read when they are asked for."""

    def __init__(self, shards: Shards, identity: str) -> None:
        self.shards, self.identity = shards, identity
        self._open: dict[int, Any] = {}
        self._captions: dict[int, list[list[str]]] = {}

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """Shard and row of every example."""
        return [(i, row) for i in range(len(self.shards.paths)) for row in range(self._length(i))]

    def size(self, step: int) -> int:
        return len(self.rows)

    def batch(self, rows: Sequence[int], draw: random.Random) -> Batch:
        return joined([self._example(*self._place(row), draw) for row in rows])

    def _place(self, row: int) -> tuple[int, int]:
        return self.rows[row]

    def _length(self, shard: int) -> int:
        self._file(shard)
        return len(self._captions[shard])

    def _example(self, shard: int, row: int, draw: random.Random) -> Batch:
        file = self._file(shard)
        captions = self._captions[shard][row]
        column = draw.randrange(len(captions))
        found: Batch = {
            name: file.get_slice(name)[row]
            for name in ("latent", "condition")
            if name in file.keys()
        }
        found |= {"text": file.get_tensor(f"text.{row}.{column}"), "caption": captions[column]}
        return found | {"empty": file.get_tensor("empty")}

    def _file(self, shard: int) -> Any:
        if shard not in self._open:
            self._open[shard] = safe_open(self.shards.paths[shard], framework="pt")
            self._captions[shard] = json.loads(self._open[shard].metadata()["captions"])
        return self._open[shard]


class GrowingExamples(LatentExamples):
    """Shards that are still being written; what a step may draw from is fixed by its number.

    Step s may draw from ``ready`` + ``per_step`` s examples, in whole shards; ``wait`` returns when
    a file is there.
    """

    def __init__(
        self,
        shards: Shards,
        identity: str,
        ready: int,
        per_step: float,
        wait: Callable[[Path], None],
    ) -> None:
        super().__init__(shards, identity)
        self.ready, self.per_step, self.wait = ready, per_step, wait
        self.growing = shards.present < len(shards.paths)

    def size(self, step: int) -> int:
        shards = max(1, int(self.ready + self.per_step * step) // self.shards.shard)
        return min(shards * self.shards.shard, self.shards.count)

    def _place(self, row: int) -> tuple[int, int]:
        return divmod(row, self.shards.shard)

    def _file(self, shard: int) -> Any:
        self.wait(self.shards.paths[shard])
        return super()._file(shard)
