"""A prompt as a job: its seeds, and the names of everything that is computed for it.

A key is the sha256 of all that determines a result, each stage's with the key of its input inside.
Nothing here imports torch: whether a run is already done is known at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pixelwizard.data.prompts import Prompt
from pixelwizard.settings import Config

CODE_FORMAT = 1
"""Raise it when a change of the code changes what a stage computes: older results are left alone."""

PARTS = ("text_encoder", "anchor", "detail", "vae")
"""The networks whose weights determine results, as ``weights_digest`` names them."""


@dataclass(frozen=True)
class Job:
    """One prompt with its seeds and the keys of its results."""

    id: str
    text: str
    negative_text: str
    anchor_seed: int
    detail_seed: int
    text_key: str
    negative_key: str
    anchor_key: str
    detail_key: str
    video_key: str


def seeds(base: int, index: int, own: int | None) -> tuple[int, int]:
    """The noise seeds (anchor, detail) of the prompt at ``index`` (0-based), as in the reference.

    A prompt with a seed of its own gets the noise of a run of it alone with that base seed.
    """
    if own is not None:
        base, index = own, 0
    return base + (index + 1) * 100, base + index * 100 + 10000


def make_jobs(config: Config, prompts: Sequence[Prompt], digests: Mapping[str, str]) -> list[Job]:
    """The jobs of a run; ``digests`` are those of the weights, by part."""
    return [_job(config, prompt, index, digests) for index, prompt in enumerate(prompts)]


def _job(config: Config, prompt: Prompt, index: int, digests: Mapping[str, str]) -> Job:
    size, dtype = config.resolution, config.backbone.dtype
    anchor_seed, detail_seed = seeds(config.seed, index, prompt.seed)
    negative_text = negative(config, prompt)
    text_key, negative_key = (
        key(stage="text", text=text, weights=digests["text_encoder"], dtype=dtype)
        for text in (prompt.text, negative_text)
    )
    texts = [text_key, negative_key]
    anchor_key = key(
        stage="anchor",
        texts=texts,
        seed=anchor_seed,
        sampler=asdict(config.anchor),
        size=[size.anchor_width, size.anchor_height, size.frames, size.anchor_shift],
        weights=digests["anchor"],
        dtype=dtype,
    )
    detail_key = key(
        stage="detail",
        texts=texts,
        anchor=anchor_key,
        seed=detail_seed,
        sampler=asdict(config.schedule),
        size=[size.width, size.height, size.frames, size.shift],
        weights=digests["detail"],
        dtype=dtype,
    )
    video_key = key(
        stage="decode",
        detail=detail_key,
        video=asdict(config.video),
        tiles=[size.decode_tiles, size.decode_overlap],
        weights=digests["vae"],
        dtype=dtype,
    )
    keys = (text_key, negative_key, anchor_key, detail_key, video_key)
    return Job(prompt.id, prompt.text, negative_text, anchor_seed, detail_seed, *keys)


def negative(config: Config, prompt: Prompt) -> str:
    """The negative prompt: the prompt's own, else the run's, else the backbone's."""
    for text in (prompt.negative_prompt, config.negative_prompt):
        if text is not None:
            return text
    return config.backbone.negative_prompt


def key(**recipe: Any) -> str:
    """The sha256 of plain values, of the order of their names independent."""
    text = json.dumps({"format": CODE_FORMAT, **recipe}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
