"""A prompt as a job: the names of everything that is computed for it.

A key is the sha256 of all that determines a result, each stage's with the key of its input inside.
Nothing here imports torch: whether a run is already done is known at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.sampler import SamplerSettings
from pixelwizard.config.targets import identity
from pixelwizard.data.prompts import Prompt
from pixelwizard.diffusion.schedules import grid_version

CODE_FORMAT = 1
"""To be raised when a stage computes something else: older results are then left alone."""


@dataclass(frozen=True)
class Job:
    """One prompt and the keys of its results."""

    prompt: Prompt
    text_key: str
    negative_key: str
    anchor_key: str
    detail_key: str
    video_key: str

    @property
    def id(self) -> str:
        """The prompt's id, the name of its files."""
        return self.prompt.id


def make_jobs(
    config: GenerateConfig, prompts: Sequence[Prompt], digests: Mapping[str, str]
) -> list[Job]:
    """The jobs of a run; ``digests`` are those of the weights, by part of the backbone."""
    return [_job(config, prompt, digests) for prompt in prompts]


def _job(config: GenerateConfig, prompt: Prompt, digests: Mapping[str, str]) -> Job:
    size, low, backbone = config.resolution, config.resolution.anchor_geometry, config.backbone
    text_key, negative_key = (
        key(
            stage="text",
            text=text,
            sizes=[asdict(backbone.text), backbone.dit.text_len],
            weights=digests["text_encoder"],
            dtype=backbone.dtype,
        )
        for text in (prompt.text, prompt.negative_prompt)
    )
    anchor_key = key(
        stage="anchor",
        texts=[text_key, negative_key],
        seed=prompt.anchor_seed,
        sampler=_sampler(config.anchor, size.anchor_shift),
        video=[low.width, low.height, size.frames, size.anchor_shift],
        sizes=asdict(backbone.dit),
        weights=digests["anchor"],
        dtype=backbone.dtype,
        residual=config.memory.residual,
    )
    detail_key = key(
        stage="detail",
        texts=[text_key, negative_key],
        anchor=anchor_key,
        seed=prompt.detail_seed,
        sampler=_sampler(config.schedule, size.shift),
        video=[size.width, size.height, size.frames, size.shift],
        sizes=asdict(backbone.detail_dit),
        weights=digests["detail"],
        dtype=backbone.dtype,
        residual=config.memory.residual,
    )
    video_key = key(
        stage="decode",
        detail=detail_key,
        video=asdict(config.video),
        decode=asdict(config.decode),
        sizes=asdict(backbone.vae),
        weights=digests["vae"],
        dtype=backbone.dtype,
    )
    return Job(prompt, text_key, negative_key, anchor_key, detail_key, video_key)


def _sampler(settings: SamplerSettings, shift: float) -> dict[str, Any]:
    """What determines a schedule; grids that were computed otherwise once carry their version."""
    version = grid_version(settings, shift)
    return {**identity(settings), **({"grid": version} if version > 1 else {})}


def key(**recipe: Any) -> str:
    """The sha256 of plain values; the order of their names does not matter."""
    text = json.dumps({"format": CODE_FORMAT, **recipe}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
