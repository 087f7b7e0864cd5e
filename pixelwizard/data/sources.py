"""The sources of training examples: a folder of clips, encoded latents, or shapes.

The latents of shapes are written by other processes during the training.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.schema import ConfigError, differences, identity, is_below, marked, to_plain
from pixelwizard.config.targets import Target, door_of
from pixelwizard.config.tasks import load
from pixelwizard.config.train import EncodeConfig, TrainConfig
from pixelwizard.data import shapes
from pixelwizard.data.batches import Batch, ClipExamples, Source
from pixelwizard.data.examples import Clips, Recipe, Split
from pixelwizard.data.folder import open_folder
from pixelwizard.data.latents import Encoding, GrowingExamples, LatentExamples, Shards, fill
from pixelwizard.data.table import PROBED
from pixelwizard.io.files import read_json, text_digest
from pixelwizard.io.process import ProcessLost
from pixelwizard.io.terminal import Line, reason
from pixelwizard.models.checkpoints import weights_digest

FIRST_DETAIL = 1_000_000
"""The scene of the detail network's first clip; the anchor's start at 0."""
MANIFEST = "latents.json"
POLL_SECONDS = 0.2
KILLED = "the processes that encode the training clips were killed, perhaps for want of memory"


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
    clips = open_clips(config)
    if config.data.kind == "shapes":
        return _procedural(config, clips, recipe)
    held_out = clips.get("heldout")
    return Sources(
        ClipExamples(clips["train"], recipe), ClipExamples(held_out, recipe) if held_out else None
    )


def open_clips(config: TrainConfig | EncodeConfig) -> dict[Split, Clips]:
    """The clips of a folder or the procedural ones, to train on and held out."""
    data = config.data
    if data.kind == "clips":
        kept = Path(config.run_dir) / PROBED
        return open_folder(data, config.resolution.frames, config.seed, kept)
    first = FIRST_DETAIL if config.part == "detail" else 0
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
    digest = text_digest(json.dumps(identity(target), sort_keys=True))
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
    return Path(config.data.dir) / text_digest(key)[:16]


@dataclass(frozen=True)
class Filling:
    """Clips to encode into shards, by a recipe."""

    clips: Clips
    shards: Shards
    recipe: Recipe

    @property
    def state(self) -> str:
        """The progress so far."""
        done = min(self.shards.present * self.shards.shard, self.shards.count)
        return f"{self.shards.split} {done}/{self.shards.count}"


class Cache:
    """Fills shards in their order, with ``workers`` processes as long as this one runs.

    With none, everything is written before this is made. Where there is a GPU the clips are
    encoded on it. ``wait`` returns once a file exists.
    """

    def __init__(
        self, backbone: BackboneSettings, fillings: Sequence[Filling], workers: int
    ) -> None:
        self.fillings, self.line = fillings, Line()
        self.processes: list[BaseProcess] = []
        for one in fillings:
            one.shards.drop_damaged()
        if all(one.shards.present == len(one.shards.paths) for one in fillings):
            return
        self.line.say("encoding training clips; training starts once enough are encoded")
        if workers == 0:
            for _ in _fill_all(backbone, fillings):
                self._show()
            self.line.close()
            return
        context = multiprocessing.get_context("spawn")
        self.failures, failed = context.Pipe(duplex=False)
        for worker in range(workers):
            arguments = (backbone, fillings, worker, workers, os.getpid(), failed)
            self.processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self.processes[-1].start()

    def wait(self, path: Path) -> None:
        """Return once ``path`` exists. Raises ValueError with the reason if it never will,
        ProcessLost if nobody is left to write it.
        """
        while not path.exists():
            if self.processes and self.failures.poll():
                with contextlib.suppress(EOFError):  # they all have ended without a word
                    why = self.failures.recv()
                    raise ValueError(f"the training clips cannot be encoded: {why}")
            if not any(process.is_alive() for process in self.processes) and not path.exists():
                raise ProcessLost(KILLED)
            self._show()
            time.sleep(POLL_SECONDS)

    def _show(self) -> None:
        self.line.show("encoding " + ", ".join(one.state for one in self.fillings))


def _work(
    backbone: BackboneSettings,
    fillings: Sequence[Filling],
    worker: int,
    of: int,
    parent: int,
    failed: Any,
) -> None:
    """Fill the shards in their order, with one thread, as long as the parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        for _ in _fill_all(backbone, fillings, worker, of):
            pass
    except Exception as error:
        with contextlib.suppress(OSError):  # nobody listens once the parent has ended
            failed.send(reason(error))


def _fill_all(
    backbone: BackboneSettings, fillings: Sequence[Filling], worker: int = 0, of: int = 1
) -> Iterator[Path]:
    """Write the missing shards of all fillings, every ``of``-th of them; yields each one."""
    encoding = Encoding(backbone, vae_dtype=torch.bfloat16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for one in fillings:
        yield from fill(encoding, one.clips, one.shards, one.recipe, device, worker, of)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in native code."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
