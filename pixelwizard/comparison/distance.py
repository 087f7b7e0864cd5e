"""Distance of a sample to a many-step result from the same noise: the error of its schedule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pixelwizard.comparison.variants import Sample, Variant, Video
from pixelwizard.config.evaluate import why_no_target
from pixelwizard.config.schema import ConfigError
from pixelwizard.evaluation.paired import MOST_PSNR, similarity
from pixelwizard.records.store import Store

Values = dict[str, dict[Sample, float]]


def target_of(variants: Sequence[Variant]) -> Variant | None:
    """The variant of the most steps among those that can be a target."""
    able = [v for v in variants if not why_no_target(v.settings["schedule"])]
    return max(able, key=lambda variant: variant.steps, default=None)


def distances(
    variants: Sequence[Variant], target: Variant, samples: Sequence[Sample]
) -> tuple[Values, str]:
    """Mean square differences of the latents by variant and sample, and their recipe.

    Latents are normalised to about unit variance. Where the store has lost one, all videos are
    compared instead: 100 minus their PSNR in dB. Raises ConfigError for latents of unequal sizes.
    """
    videos = {variant.name: [variant.videos[sample] for sample in samples] for variant in variants}
    if all(_path(video) for row in videos.values() for video in row):
        compare, kind = _latent_distance, "latent-mse"
    else:
        compare, kind = _video_distance, f"{MOST_PSNR:g}-psnr/ffmpeg-yuv420p"
    ends = videos[target.name]
    found = {
        name: {s: compare(v, end) for s, v, end in zip(samples, row, ends, strict=True)}
        for name, row in videos.items()
    }
    return found, f"{kind}/to={target.name}/n={len(samples)}"


def _path(video: Video) -> bool:
    """Whether the latent of a video is in its store."""
    key = video.record.get("keys", {}).get("detail")
    return key is not None and video.store.is_dir() and Store(video.store).has("detail", key)


def _latent(video: Video) -> Tensor:
    return Store(video.store).load("detail", video.record["keys"]["detail"])["latent"].double()


def _latent_distance(video: Video, end: Video) -> float:
    if video.record["keys"]["detail"] == end.record["keys"]["detail"]:
        return 0.0
    ours, theirs = _latent(video), _latent(end)
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"{video.path} and {end.path} have latents of other sizes, so there is no distance;"
            " compare runs of one resolution, or name a score with quality=NAME"
        )
    return float(torch.mean((ours - theirs) ** 2))


def _video_distance(video: Video, end: Video) -> float:
    if video.path == end.path:
        return 0.0
    return MOST_PSNR - similarity("psnr", video.path, end.path)
