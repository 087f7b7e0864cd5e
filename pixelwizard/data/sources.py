"""The sources of training examples: a folder of clips, encoded latents, or shapes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pixelwizard.config.geometry import Geometry
from pixelwizard.config.schema import (
    ConfigError,
    differences,
    identity,
    is_below,
    marked,
    to_plain,
)
from pixelwizard.config.targets import Target, door_of
from pixelwizard.config.tasks import load
from pixelwizard.config.train import DataSettings, EncodeConfig, TrainConfig
from pixelwizard.data import shapes
from pixelwizard.data.batches import Batch, ClipExamples, Source
from pixelwizard.data.cache import Cache, Filling
from pixelwizard.data.examples import Clips, Recipe, Split
from pixelwizard.data.folder import open_folder
from pixelwizard.data.latents import GrowingExamples, LatentExamples, Shards
from pixelwizard.data.table import PROBED
from pixelwizard.io.files import read_json
from pixelwizard.models.checkpoints import weights_digest

FIRST_DETAIL = 1_000_000
"""The scene of the detail network's first clip; the anchor's start at 0."""
MANIFEST = "latents.json"


@dataclass(frozen=True)
class Sources:
    """The examples to train on and those that measure the loss, if there are any."""

    train: Source
    held_out: Source | None


def open_sources(config: TrainConfig) -> Sources:
    """The examples of a training of the anchor or the detail network.

    Raises ValueError where there are none, or others than the settings say.
    """
    if config.data.target is not None:
        return _own(config, config.data.target)
    if config.data.kind == "latents":
        return _encoded(config)
    recipe = Recipe(config.part, config.resolution, config.data.degradation, seed=0)
    kept = Path(config.run_dir) / PROBED
    clips = open_clips(config.data, config.part, config.resolution.frames, config.seed, kept)
    if config.data.kind == "shapes":
        return _procedural(config, clips, recipe)
    held_out = clips.get("heldout")
    return Sources(
        ClipExamples(clips["train"], recipe), ClipExamples(held_out, recipe) if held_out else None
    )


def open_clips(
    data: DataSettings, part: str, frames: int, seed: int, kept: Path | None = None
) -> dict[Split, Clips]:
    """The clips of a folder or the procedural ones, to train on and held out."""
    if data.kind == "clips":
        return open_folder(data, frames, seed, kept)
    first = FIRST_DETAIL if part == "detail" else 0
    return {
        "train": ShapeClips("train", first, data.count),
        "heldout": ShapeClips("heldout", first, data.held_out),
    }


class ShapeClips(Clips):
    """``count`` scenes of a split, from the scene ``first`` on."""

    def __init__(self, split: Split, first: int, count: int) -> None:
        self.split, self.first, self.count = split, first, count
        self.identity = f"shapes {split} from {first}"

    def __len__(self) -> int:
        return self.count

    def captions(self, number: int) -> list[str]:
        return [shapes.caption(self._scene(number))]

    def clip(self, number: int, size: Geometry, rng: random.Random) -> np.ndarray:
        return shapes.render(self._scene(number), size.width, size.height, size.frames)

    def _scene(self, number: int) -> shapes.Scene:
        return shapes.scene(self.first + number, self.split)


class Rows(Source):
    """Some of the examples of another source."""

    def __init__(self, source: Source, rows: Sequence[int], identity: str) -> None:
        self.source, self.rows, self.identity = source, rows, identity

    def size(self, step: int) -> int:
        return len(self.rows)

    def batch(self, rows: Sequence[int], rng: random.Random) -> Batch:
        return self.source.batch([self.rows[row] for row in rows], rng)


def _own(config: TrainConfig, target: Target) -> Sources:
    """The examples of the user's source; the seed draws ``data.held_out`` held-out ones."""
    source: Source = door_of(TrainConfig, "data").make(target, "data")
    count, held_out = source.size(0), config.data.held_out
    if count <= held_out:
        raise ConfigError(
            f"data.held_out={held_out} leaves none of the {count} examples of {target.path} to"
            f" train on; nearest: {max(count - 1, 0)}"
        )
    rows = random.Random(f"held out {config.seed}").sample(range(count), count)
    digest = hashlib.sha256(json.dumps(identity(target), sort_keys=True).encode()).hexdigest()
    name = f"{count} of {target.path} {digest[:16]}"
    held, train = sorted(rows[:held_out]), sorted(rows[held_out:])
    return Sources(Rows(source, train, name), Rows(source, held, name) if held else None)


def _encoded(config: TrainConfig) -> Sources:
    folder = Path(config.data.dir)
    path = folder / MANIFEST
    facts = read_json(path) if path.is_file() else {}
    if not facts.get("complete"):
        raise ValueError(
            f"data.dir={folder} holds no complete set of latents; write one with:"
            f" pixelwizard encode run_dir={folder}"
        )
    made: EncodeConfig = load(folder / "config.yaml")
    wanted = {"stage": config.part, "resolution": config.resolution, "backbone": config.backbone}
    decisive = marked(EncodeConfig, "of_latents")
    differ = differences(to_plain(made), {**to_plain(made), **to_plain(wanted)})
    differ = [key for key in differ if is_below(key, decisive)]
    if differ:
        stage = f" with stage={config.part}" if "stage" in differ else ""
        raise ValueError(
            f"data.dir={folder} holds latents for other settings (they differ in"
            f" {', '.join(differ[:5])}); encode them anew{stage}, or train with the same settings"
        )
    sources = {
        split: LatentExamples(Shards(folder, split, count, made.data.shard), facts["identity"])
        for split, count in facts["clips"].items()
    }
    return Sources(sources["train"], sources.get("heldout"))


def _procedural(config: TrainConfig, clips: dict[Split, Clips], recipe: Recipe) -> Sources:
    data, folder = config.data, cache_folder(config, recipe)
    fillings = [
        Filling(clips[split], Shards(folder, split, len(clips[split]), data.shard), recipe)
        for split in ("heldout", "train")
    ]
    cache = Cache(config.backbone, fillings, data.workers)
    held_out, train = (
        GrowingExamples(one.shards, folder.name, ready, per_step, cache.wait)
        for one, ready, per_step in (
            (fillings[0], data.held_out, 0.0),
            (fillings[1], data.ready, data.growth * config.objective.batch),
        )
    )
    return Sources(train, held_out)


def cache_folder(config: TrainConfig, recipe: Recipe) -> Path:
    """Below ``data.dir``: each encoder, size and recipe has its folder."""
    digests = [weights_digest(config.backbone, part) for part in ("vae", "text_encoder")]
    size = config.resolution
    grids = [str(size.geometry), str(size.anchor_geometry)]
    facts = [digests, recipe.part, grids, asdict(recipe.degradation), config.data.shard]
    key = json.dumps([*facts, asdict(config.backbone.vae)], sort_keys=True)
    return Path(config.data.dir) / hashlib.sha256(key.encode()).hexdigest()[:16]
