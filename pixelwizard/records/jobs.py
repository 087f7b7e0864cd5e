"""A prompt as a job: the keys of its results.

A key is the sha256 of everything that determines a result; it includes the keys of its inputs.
Nothing here imports torch, so a finished run is recognised at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixelwizard.config.generate import GenerateConfig, SamplerSettings
from pixelwizard.config.targets import identity
from pixelwizard.data.prompts import Prompt
from pixelwizard.diffusion.schedules import grid_version
from pixelwizard.io.digests import text_digest

CODE_FORMAT = 1
"""Raise it when a stage computes something else: older results are then not reused."""


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

    @property
    def results(self) -> tuple[tuple[str, str], ...]:
        """The kinds and keys of its results in the store."""
        return ("text", self.text_key), ("anchor", self.anchor_key), ("detail", self.detail_key)


def make_jobs(
    config: GenerateConfig, prompts: Sequence[Prompt], digests: Mapping[str, str]
) -> list[Job]:
    """The jobs of a run; ``digests`` are those of the weights, by part of the backbone."""
    recipes = _recipes(config, digests)
    return [_job(prompt, recipes) for prompt in prompts]


def _recipes(config: GenerateConfig, digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What determines the results of every stage, apart from the prompt."""
    size, low, backbone = config.resolution, config.resolution.anchor_geometry, config.backbone
    passes: dict[str, Any] = {"residual": config.memory.residual}
    if config.attention != "exact":  # older keys know of no other
        passes["attention"] = identity(config.attention)
    network = {}
    if backbone.detail_network is not None:
        network["network"] = identity(backbone.detail_network)
    recipes: dict[str, dict[str, Any]] = {
        "text": {
            "sizes": [identity(backbone.text), backbone.dit.text_len],
            "weights": digests["text_encoder"],
        },
        "anchor": {
            "sampler": _sampler(config.anchor, size.anchor_shift),
            "video": [low.width, low.height, size.frames, size.anchor_shift],
            "sizes": identity(backbone.dit),
            "weights": digests["anchor"],
            **passes,
        },
        "detail": {
            "sampler": _sampler(config.schedule, size.shift),
            "video": [size.width, size.height, size.frames, size.shift],
            "sizes": identity(backbone.detail_dit),
            "weights": digests["detail"],
            **passes,
            **network,
        },
        "decode": {
            "video": identity(config.video),
            "decode": identity(config.decode),
            "sizes": identity(backbone.vae),
            "weights": digests["vae"],
        },
    }
    return {
        stage: {"stage": stage, "dtype": backbone.dtype, **recipe}
        for stage, recipe in recipes.items()
    }


def _job(prompt: Prompt, recipes: Mapping[str, Mapping[str, Any]]) -> Job:
    text, negative = (
        key(text=text, **recipes["text"]) for text in (prompt.text, prompt.negative_prompt)
    )
    texts = [text, negative]
    anchor = key(texts=texts, seed=prompt.anchor_seed, **recipes["anchor"])
    detail = key(texts=texts, anchor=anchor, seed=prompt.detail_seed, **recipes["detail"])
    video = key(detail=detail, **recipes["decode"])
    return Job(prompt, text, negative, anchor, detail, video)


def _sampler(settings: SamplerSettings, shift: float) -> dict[str, Any]:
    """What determines a schedule; grids that were once computed differently carry a version."""
    version = grid_version(settings, shift)
    return {**identity(settings), **({"grid": version} if version > 1 else {})}


def key(**recipe: Any) -> str:
    """The sha256 of plain values; the order of their names does not matter."""
    return text_digest(json.dumps({"format": CODE_FORMAT, **recipe}, sort_keys=True))
