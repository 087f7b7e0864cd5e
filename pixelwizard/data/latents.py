"""Examples as latents: their frozen encoders, and the sharded files that hold them.

``encode`` and the cache of the shapes write these. A shard holds the examples of ``shard``
consecutive clips that could be used: ``latent`` float16 [N, C, t, h, w], for the detail stage
``condition`` (the latent of the anchor that belongs to it), the embeddings ``text.N.K`` [L, E] of
every caption and ``empty`` of the empty text, the captions. Its name says which clips it holds, so
several processes can write, be interrupted and continue. A killed process leaves no half-written
shard.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Union

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.data.batches import Batch, Source, joined
from pixelwizard.data.examples import Clips, Recipe, Unusable, as_float, example
from pixelwizard.data.loading import Loader
from pixelwizard.io.files import remove
from pixelwizard.io.store import Damaged, read_hashed, write_hashed
from pixelwizard.io.terminal import say
from pixelwizard.models.wan.umt5 import TextEncoder
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import load_text_encoder, load_vae

CAPTIONS = "captions"
REMEMBERED = 1024
"""How many texts' embeddings are kept."""

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Shards:
    """The shards of ``count`` clips of a split, of ``shard`` clips each."""

    folder: Path
    split: str
    count: int
    shard: int

    @cached_property
    def paths(self) -> list[Path]:
        """All shards of a complete folder."""
        shards = -(-self.count // self.shard)
        return [self.folder / f"{self.split}-{index:05d}.safetensors" for index in range(shards)]

    @property
    def present(self) -> int:
        """The number of examples."""
        return sum(path.exists() for path in self.paths)

    def drop_damaged(self) -> None:
        """Remove the shards that are damaged, so that they are written again, and name them."""
        for path in filter(Path.exists, self.paths):
            try:
                read_hashed(path, CAPTIONS)
            except Damaged as error:
                remove(path)
                say(f"{error}; it was removed and is written again")

    def numbers(self, index: int) -> range:
        """The clips of a shard."""
        return range(index * self.shard, min((index + 1) * self.shard, self.count))


class Pixels(Dataset[Union[dict[str, Tensor], str]]):
    """The examples of clips by their numbers as pixels, or why one is unusable."""

    def __init__(self, clips: Clips, recipe: Recipe, numbers: Sequence[int]) -> None:
        self.clips, self.recipe, self.numbers = clips, recipe, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Tensor] | str:
        number = self.numbers[index]
        rng = random.Random(f"{self.recipe.seed} {number}")
        try:
            return example(self.clips, number, self.recipe, rng)
        except Unusable as problem:
            return str(problem)


def write_shard(
    encoding: Encoding,
    path: Path,
    examples: Iterable[tuple[list[str], dict[str, Tensor] | str]],
    device: str,
) -> None:
    """Encode captions and pixels into one shard; an unusable clip is only named."""
    names = {"video": "latent", "small": "condition"}
    rows: list[dict[str, Tensor]] = []
    captions: list[list[str]] = []
    for texts, pixels in examples:
        if isinstance(pixels, str):
            log.warning("skipped %s", pixels)
            continue
        latents = {name: encoding.latent(video.to(device)) for name, video in pixels.items()}
        rows.append({names[name]: latent.half().cpu() for name, latent in latents.items()})
        captions.append(texts)
    tensors = {name: torch.stack([row[name] for row in rows]) for name in (rows or [{}])[0]}
    tensors["empty"] = encoding.texts([""], device)[0].cpu()
    for row, texts in enumerate(captions):
        for column, embedding in enumerate(encoding.texts(texts, device)):
            tensors[f"text.{row}.{column}"] = embedding.cpu().clone()
    write_hashed(path, tensors, CAPTIONS, json.dumps(captions, ensure_ascii=False))


def fill(
    encoding: Encoding,
    clips: Clips,
    shards: Shards,
    recipe: Recipe,
    device: str = "cpu",
    worker: int = 0,
    of: int = 1,
    readers: int = 0,
) -> Iterator[Path]:
    """Write the shards that are missing, every ``of``-th of them; yields each finished one.

    ``readers`` processes read and degrade the clips ahead of the encoder.
    """
    own = list(range(worker, len(shards.paths), of))
    missing = [index for index in own if not shards.paths[index].exists()]
    numbers = [number for index in missing for number in shards.numbers(index)]
    pixels = iter(Loader(Pixels(clips, recipe, numbers), readers, ahead=1))
    for index in missing:
        examples = ((clips.captions(number), next(pixels)) for number in shards.numbers(index))
        write_shard(encoding, shards.paths[index], examples, device)
        yield shards.paths[index]


class LatentExamples(Source):
    """The examples of shards; a shard is checked when an example of it is asked for first.

    Raises ValueError for one that is damaged or gone.
    """

    def __init__(self, shards: Shards, identity: str) -> None:
        self.shards, self.identity = shards, identity
        self._open: dict[int, tuple[Any, list[list[str]]]] = {}
        self._whole: set[int] = set()

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """Shard and row of every example."""
        lengths = [len(self._file(shard)[1]) for shard in range(len(self.shards.paths))]
        return [(shard, row) for shard, length in enumerate(lengths) for row in range(length)]

    def size(self, step: int) -> int:
        return len(self.rows)

    def batch(self, rows: Sequence[int], rng: random.Random) -> Batch:
        return joined([self._example(*self._place(row), rng) for row in rows])

    def _place(self, row: int) -> tuple[int, int]:
        return self.rows[row]

    def _example(self, shard: int, row: int, rng: random.Random) -> Batch:
        file, captions = self._file(shard)
        if shard not in self._whole:
            with _reading(self.shards.paths[shard]):
                read_hashed(self.shards.paths[shard], CAPTIONS)
            self._whole.add(shard)
        column = rng.randrange(len(captions[row]))
        found: Batch = {
            name: file.get_slice(name)[row]
            for name in ("latent", "condition")
            if name in file.keys()
        }
        found |= {"text": file.get_tensor(f"text.{row}.{column}"), "caption": captions[row][column]}
        return found | {"empty": file.get_tensor("empty")}

    def _file(self, shard: int) -> tuple[Any, list[list[str]]]:
        """The open file of a shard and its captions, by row."""
        if shard not in self._open:
            path = self.shards.paths[shard]
            with _reading(path):
                file = safe_open(path, framework="pt")
                self._open[shard] = file, json.loads(file.metadata()[CAPTIONS])
        return self._open[shard]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file that cannot be read. Raises ValueError."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path} is gone; the command that wrote it writes it again") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; the command that wrote it writes it again") from None


class GrowingExamples(LatentExamples):
    """Shards that are still being written; what a step may draw from is fixed by its number.

    Step s may draw from ``ready`` + ``per_step`` s examples, in whole shards; ``wait`` returns when
    a file exists.
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

    def _file(self, shard: int) -> tuple[Any, list[list[str]]]:
        self.wait(self.shards.paths[shard])
        return super()._file(shard)
