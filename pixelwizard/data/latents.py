"""The cache of training latents: procedural clips, rendered and encoded once, in shards that grow.

A shard holds ``latent`` (float16, the example), for pairs also ``condition`` (the anchor latent of
the same clip) and ``sharp`` (false where the condition was blurred), and the captions. Its name
says which scenes it holds, so that the cache can be filled by several processes, be interrupted
and continue. Shapes: latents [N, C, t, h, w].
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import IterableDataset

from pixelwizard.data import shapes
from pixelwizard.geometry import Geometry
from pixelwizard.train_settings import TrainConfig
from pixelwizard.wan.vae import WanVAE

FIRST_PAIR = 1_000_000
"""The seed of the first scene of the pairs; the clips start at 0."""
BLUR = (0.4, 0.9)
"""Least and greatest deviation, in anchor pixels, of the blur on half of the conditions."""
READ_EVERY = 100
"""Steps of training after which new shards are looked for."""


@dataclass(frozen=True)
class Part:
    """One part of the cache: what its examples are and where they lie."""

    kind: str
    split: str
    count: int
    folder: Path
    shard: int

    @property
    def paths(self) -> list[Path]:
        """All shards that the part has when it is full."""
        stem = self.folder / f"{self.kind}-{self.split}"
        shards = -(-self.count // self.shard)
        return [Path(f"{stem}-{index:05d}.safetensors") for index in range(shards)]

    @property
    def present(self) -> list[Path]:
        """The shards that are there."""
        return [path for path in self.paths if path.exists()]

    def seeds(self, path: Path) -> range:
        """The scenes of a shard."""
        index = int(path.stem.rsplit("-", 1)[1])
        first = (FIRST_PAIR if self.kind == "pairs" else 0) + index * self.shard
        return range(first, first + self.shard)


def parts(config: TrainConfig, digest: str) -> dict[str, Part]:
    """The training and the held-out part of both kinds: clips, clips-heldout, pairs, ...

    ``digest`` identifies the autoencoder: other weights or another size have a folder of their own.
    """
    data, size = config.data, config.resolution
    grid = (size.width, size.height, size.anchor_width, size.anchor_height, size.frames)
    key = json.dumps([digest, grid, data.shard, BLUR, asdict(config.backbone.vae)], sort_keys=True)
    folder = Path(data.dir) / hashlib.sha256(key.encode()).hexdigest()[:16]
    found = {}
    for kind, count in (("clips", data.clips), ("pairs", data.pairs)):
        found[kind] = Part(kind, "train", count, folder, data.shard)
        found[f"{kind}-heldout"] = Part(kind, "heldout", data.held_out, folder, data.shard)
    return found


def to_video(clip: np.ndarray) -> Tensor:
    """uint8 [T, H, W, 3] -> float32 [1, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def shrink(video: Tensor, size: Geometry) -> Tensor:
    """The video [1, 3, T, H, W] at the size of an anchor, by area."""
    frames = F.interpolate(video[0].transpose(0, 1), (size.height, size.width), mode="area")
    return frames.transpose(0, 1)[None]


def blur(video: Tensor, deviation: float) -> Tensor:
    """Every frame of [1, 3, T, H, W] blurred by a Gaussian of that deviation in pixels."""
    taps = torch.arange(-3.0, 4.0)
    kernel = torch.exp(-0.5 * (taps / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    frames = F.pad(video[0].transpose(0, 1), (3, 3, 3, 3), mode="replicate")
    frames = F.conv2d(F.conv2d(frames, kernel, groups=3), kernel.mT, groups=3)
    return frames.transpose(0, 1)[None]


def encode_example(vae: WanVAE, config: TrainConfig, part: Part, seed: int) -> dict[str, Tensor]:
    """The tensors of one example, without a batch axis."""
    scene = shapes.scene(seed, part.split)
    anchor = config.resolution.anchor_geometry
    if part.kind == "clips":
        clip = shapes.render(scene, anchor.width, anchor.height, anchor.frames)
        return {"latent": vae.encode(to_video(clip))[0].half()}
    size = config.resolution.geometry
    video = to_video(shapes.render(scene, size.width, size.height, size.frames))
    small, sharp = shrink(video, anchor), seed % 2 == 0
    if not sharp:
        low, high = BLUR
        small = blur(small, low + (high - low) * (seed // 2 % 101) / 100)
    return {
        "latent": vae.encode(video)[0].half(),
        "condition": vae.encode(small)[0].half(),
        "sharp": torch.tensor(sharp),
    }


@torch.inference_mode()
def encode_shard(vae: WanVAE, config: TrainConfig, part: Part, path: Path) -> None:
    """Render, encode and write one shard; a killed process leaves no half-written one."""
    seeds = part.seeds(path)
    examples = [encode_example(vae, config, part, seed) for seed in seeds]
    tensors = {name: torch.stack([e[name] for e in examples]) for name in examples[0]}
    captions = [shapes.caption(shapes.scene(seed, part.split)) for seed in seeds]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(tensors, unfinished, metadata={"captions": json.dumps(captions)})
    os.replace(unfinished, path)


def fill(
    vae: WanVAE, config: TrainConfig, part: Part, worker: int = 0, of: int = 1
) -> Iterator[Path]:
    """Encode the shards that are missing, every ``of``-th of them; yields each finished one."""
    for index, path in enumerate(part.paths):
        if index % of == worker and not path.exists():
            encode_shard(vae, config, part, path)
            yield path


@dataclass(frozen=True)
class Examples:
    """Examples in memory: latents and, for pairs, conditions (float16 [N, C, t, h, w])."""

    latents: Tensor
    conditions: Tensor | None
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, rows: Sequence[int], step: int) -> dict[str, object]:
        """Some rows as what a training step takes."""
        index, captions = torch.tensor(rows), [self.captions[row] for row in rows]
        batch = {"latent": self.latents[index], "caption": captions, "step": step}
        if self.conditions is not None:
            batch["condition"] = self.conditions[index]
        return batch


class LatentReader:
    """All examples of the shards that are there by now; ``read`` again to see later ones.

    With ``anchors=True`` the examples are anchors: the clips, and the unblurred conditions of the
    pairs; without, they are pairs.
    """

    def __init__(self, sources: list[Part], anchors: bool) -> None:
        self.sources = sources
        self.anchors = anchors
        self._shards: dict[Path, Examples] = {}

    def read(self) -> Examples:
        """The examples in the order of the shards' names; each file is read once."""
        paths = [path for part in self.sources for path in part.present]
        for path in paths:
            if path not in self._shards:
                self._shards[path] = _read_shard(path, self.anchors)
        shards = [self._shards[path] for path in paths]
        conditions = [s.conditions for s in shards if s.conditions is not None]
        return Examples(
            torch.cat([s.latents for s in shards]),
            torch.cat(conditions) if conditions else None,
            [text for s in shards for text in s.captions],
        )


def _read_shard(path: Path, anchors: bool) -> Examples:
    with safe_open(path, framework="pt") as file:
        captions = json.loads(file.metadata()["captions"])
        latents = file.get_tensor("latent")
        if "condition" not in file.keys():
            return Examples(latents, None, captions)
        conditions, sharp = file.get_tensor("condition"), file.get_tensor("sharp")
    if not anchors:
        return Examples(latents, conditions, captions)
    kept = [text for text, good in zip(captions, sharp.tolist(), strict=True) if good]
    return Examples(conditions[sharp], None, kept)


class LatentBatches(IterableDataset):
    """Endless batches of cached latents; shards that appear meanwhile are read now and then.

    Once the cache is full, the batch of a step depends on the seed and the step alone.
    """

    def __init__(self, config: TrainConfig, reader: LatentReader, first_step: int) -> None:
        self.config = config
        self.reader = reader
        self.first_step = first_step

    def __iter__(self) -> Iterator[dict[str, object]]:
        step, examples = self.first_step, self.reader.read()
        while True:
            if step % READ_EVERY == 0:
                examples = self.reader.read()
            draw = random.Random(f"{self.config.seed} {step}")
            count = min(self.config.objective.batch, len(examples))
            yield examples.batch(draw.sample(range(len(examples)), count), step)
            step += 1


def held_out_batches(config: TrainConfig, reader: LatentReader) -> list[dict[str, object]]:
    """All examples of a held-out part in batches, always the same."""
    examples, size = reader.read(), config.objective.batch
    return [
        examples.batch(range(i, min(i + size, len(examples))), i)
        for i in range(0, len(examples), size)
    ]
