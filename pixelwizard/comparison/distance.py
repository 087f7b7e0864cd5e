"""Distance of a sample to a many-step result from the same noise: the error of its schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pixelwizard.comparison.variants import Sample, Variant, Video
from pixelwizard.config.evaluate import why_no_target
from pixelwizard.config.schema import ConfigError
from pixelwizard.evaluation.metrics.psnr import PSNR
from pixelwizard.io.store import Store

Values = dict[str, dict[Sample, float]]


def compared_stage(variants: Sequence[Variant]) -> str:
    """``anchor`` where only samplers of the anchor differ, else ``detail``."""
    details, anchors = ([v.sampler(stage) for v in variants] for stage in ("detail", "anchor"))
    alike = all(sampler == details[0] for sampler in details)
    return "anchor" if alike and any(sampler != anchors[0] for sampler in anchors) else "detail"


def target_of(variants: Sequence[Variant], stage: str) -> Variant | None:
    """The variant of the most steps of a stage among those that can be a target."""
    able = [v for v in variants if not why_no_target(v.sampler(stage))]
    return max(able, key=lambda variant: variant.steps(stage), default=None)


def distances(
    variants: Sequence[Variant], target: Variant, samples: Sequence[Sample], stage: str
) -> tuple[Values, str]:
    """Mean square differences of a stage's latents by variant and sample, and their recipe.

    Latents are normalised to about unit variance. Where the store has lost one, all videos are
    compared instead: 100 minus their PSNR in dB. Raises ConfigError for latents of unequal sizes.
    """
    videos = {variant.name: [variant.videos[sample] for sample in samples] for variant in variants}
    compare: Callable[[Video, Video], float]
    if all(_is_stored(video, stage) for row in videos.values() for video in row):
        compare, kind = partial(_latent_distance, stage), "latent-mse"
        kind = kind if stage == "detail" else f"{stage}-{kind}"
    else:
        compare, kind = _video_distance, f"{PSNR.most:g}-psnr/ffmpeg-yuv420p"
    ends = videos[target.name]
    found = {
        name: {s: compare(v, end) for s, v, end in zip(samples, row, ends, strict=True)}
        for name, row in videos.items()
    }
    return found, f"{kind}/to={target.name}/n={len(samples)}"


def _is_stored(video: Video, stage: str) -> bool:
    """Whether the latent of a video is in its store."""
    key = video.record.get("keys", {}).get(stage)
    return key is not None and video.store.is_dir() and Store(video.store).has(stage, key)


def _latent(video: Video, stage: str) -> Tensor:
    return Store(video.store).load(stage, video.record["keys"][stage])["latent"].double()


def _latent_distance(stage: str, video: Video, end: Video) -> float:
    if video.record["keys"][stage] == end.record["keys"][stage]:
        return 0.0
    ours, theirs = _latent(video, stage), _latent(end, stage)
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"{video.path} and {end.path} have latents of other sizes, so there is no distance;"
            " compare runs of one resolution, or name a score with quality=NAME"
        )
    return float(torch.mean((ours - theirs) ** 2))


def _video_distance(video: Video, end: Video) -> float:
    if video.path == end.path:
        return 0.0
    return PSNR.most - PSNR.similarity(video.path, end.path)
