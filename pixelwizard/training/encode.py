"""Clips and captions -> latents and embeddings in shards, encoded once for many trainings."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pixelwizard.config.train import EncodeConfig
from pixelwizard.data.examples import Recipe
from pixelwizard.data.latents import Encoding, LatentExamples, Shards, fill
from pixelwizard.data.sources import MANIFEST, open_clips
from pixelwizard.io.files import read_json, write_json
from pixelwizard.io.terminal import Line, clock, say
from pixelwizard.models.checkpoints import weights_digest


def encode(config: EncodeConfig) -> int:
    """Write the missing shards, then the manifest; returns the exit code, 0.

    Raises ValueError if no clip can be used, or the folder's latents are of other clips or weights.
    """
    folder, line = Path(config.run_dir), Line()
    recipe = Recipe(config.stage, config.resolution, config.data.degradation, config.seed)
    clips = open_clips(config)
    shards = {
        split: Shards(folder, split, len(some), config.data.shard) for split, some in clips.items()
    }
    facts = {
        "identity": " + ".join(some.identity for some in clips.values()),
        "clips": {split: len(some) for split, some in clips.items()},
        "vae": weights_digest(config.backbone, "vae"),
        "text_encoder": weights_digest(config.backbone, "text_encoder"),
    }
    _claim(folder, facts)
    for some in shards.values():
        some.drop_damaged()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoding, readers = Encoding(config.backbone), config.data.workers
    total = sum(len(some.paths) for some in shards.values())
    before = done = sum(some.present for some in shards.values())
    started = time.monotonic()
    for split, some in shards.items():
        for _ in fill(encoding, clips[split], some, recipe, device, readers=readers):
            done += 1
            pace = (time.monotonic() - started) / (done - before)
            line.show(f"shard {done}/{total}  ETA {clock(pace * (total - done))}")
    line.show("")
    usable = {split: LatentExamples(some, "").size(0) for split, some in shards.items()}
    if lost := sum(map(len, clips.values())) - sum(usable.values()):
        say(f"{lost} clips could not be read and are skipped; run.log names them")
    if not usable["train"]:
        raise ValueError(f"data.dir={config.data.dir}: no clip could be encoded; run.log says why")
    write_json(folder / MANIFEST, {**facts, "examples": usable, "complete": True})
    print(folder)
    return 0


def _claim(folder: Path, facts: dict[str, object]) -> None:
    """Begin the manifest, or continue one with the same content."""
    path = folder / MANIFEST
    known = read_json(path) if path.is_file() else facts
    for name, value in facts.items():
        if known.get(name) != value:
            raise ValueError(
                f"run_dir={folder} holds latents made with other {name} ({known.get(name)}, now"
                f" {value}); choose another folder"
            )
    write_json(path, known)
