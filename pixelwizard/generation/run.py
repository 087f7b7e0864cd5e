"""``generate``: a run is checked, then its prompts become videos.

torch is imported only if something is missing, so a finished run is confirmed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.geometry import windows_of
from pixelwizard.config.parallel import mesh_of
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import title
from pixelwizard.data.prompts import Prompt, prompts_in, prompts_of, table_of
from pixelwizard.data.table import find_videos
from pixelwizard.diffusion.schedules import stage_schedules
from pixelwizard.io.process import SOME_FAILED, importing
from pixelwizard.io.terminal import say
from pixelwizard.models.checkpoints import require_weights, weights_digests, weights_folder
from pixelwizard.models.wan.layouts import advice, refuse_exact
from pixelwizard.records import provenance
from pixelwizard.records.provenance import check_names, make_jobs
from pixelwizard.records.run_folder import (
    OUT_OF_MEMORY,
    SHEET,
    STATUS,
    Failure,
    Status,
)
from pixelwizard.stages.precision import settled

if TYPE_CHECKING:
    from pixelwizard.parallel.mesh import Rank


def check(config: GenerateConfig) -> None:
    """Refuse what cannot run before anything is written: prompts, schedules, weights, networks.

    Raises ValueError.
    """
    table = table_of(config)
    prompts = prompts_in(table, config)
    check_names(config, prompts)
    table.tell()
    if all(prompt.clip for prompt in prompts):
        say("every prompt is a clip, which takes the anchor's place: anchor.* is not used")
    usual = config.backbone.negative_prompt
    if not config.guided and any(prompt.negative_prompt not in ("", usual) for prompt in prompts):
        say("no step of either stage is guided: negative prompts are not used")
    _check_schedules(config)
    _check_passes(config, prompts)
    require_weights(config.backbone)
    _check_published(config)
    if config.parallel.launch:
        mesh_of(config)
    if config.reference is not None:
        find_videos(Path(config.reference), "reference")
    if config.scored:
        from pixelwizard.evaluation.names import require, resolve_auto

        settings = resolve_auto(config.metrics, config.backbone.name)
        require(settings, config.reference is not None)


def _check_published(config: GenerateConfig) -> None:
    """Refuse an anchor network that needs its own attention; say how a distilled one is sampled."""
    anchor = config.backbone.anchor
    place = Path(anchor) if anchor else weights_folder(config.backbone)
    if config.attention == "exact":
        refuse_exact(place.name)
    found = advice(place.name)
    if found and config.anchor.guidance > 1:
        say(found)


def _check_schedules(config: GenerateConfig) -> None:
    """Schedules that can be made; ranks that make every pass together must skip the same steps."""
    refining = stage_schedules(None, config.schedule, config.resolution, config.refine.sigma)
    for stage in (
        *stage_schedules(config.anchor, config.schedule, config.resolution),
        *(refining if config.refine.sigma is not None else ()),
    ):
        if not stage.schedule.is_fixed and config.parallel.shard == "all":
            raise ConfigError(
                f"{stage.stage}: skip {title(stage.schedule.skip)} decides per video, but with"
                " parallel.shard=all the ranks of all prompts make every pass together; use"
                " parallel.shard=sequence or skip by a mask"
            )


def _check_passes(config: GenerateConfig, prompts: Sequence[Prompt]) -> None:
    """Ranks that make every pass together need equally many for every video."""
    window = config.resolution.geometry.latent_grid[0]
    lengths = [
        p.source.sizes(config.resolution).geometry.latent_grid[0] if p.source else window
        for p in prompts
    ]
    passes = {
        (len(windows_of(length, window)), config.refine.sigma if prompt.clip else None)
        for prompt, length in zip(prompts, lengths, strict=True)
    }
    if config.parallel.shard == "all" and len(passes) > 1:
        raise ConfigError(
            "parallel.shard=all needs equally many passes for every video, and these prompts differ"
            " in theirs; use parallel.shard=sequence, or refine clips of other lengths in another"
            " run"
        )


def finished(config: GenerateConfig) -> bool:
    """Whether all videos are finished, made with these settings and the current weights."""
    config = settled(config)
    jobs = make_jobs(config, prompts_of(config), weights_digests(config.backbone))
    return all(provenance.finished(config, job) for job in jobs)


def generate(config: GenerateConfig, rank: Rank | None = None) -> int:
    """Make the videos that are missing in ``config.run_dir`` and score them; the exit code.

    Every ``rank`` of several calls this; the first keeps status, tracker and contact sheet. A
    failing prompt is named on stderr and in status.json, the others continue. Raises ValueError if
    nothing can be done: no weights, a store that cannot be written.
    """
    first = rank is None or rank.is_first
    agreed: Callable[[Any], Any] = rank.everyone.from_first if rank else lambda value: value
    if config.decode.dtype == "auto":
        config = agreed(settled(config))
    prompts = prompts_of(config)
    check_names(config, prompts)
    digests = agreed(weights_digests(config.backbone) if first else {})
    jobs = make_jobs(config, prompts, digests)
    folder, failed = Path(config.run_dir), {}
    videos = {job.id: folder / "videos" / f"{job.id}{config.video.suffix}" for job in jobs}
    records = {job.id: provenance.finished(config, job) for job in jobs} if first else {}
    complete = all(records.values()) and (folder / SHEET).is_file()
    if agreed(complete and _is_scored(config, videos)):
        if first:
            Status(folder / STATUS, videos).done(*videos)
    else:
        with importing():
            from pixelwizard.generation.predict import Prediction

        with Prediction(config, jobs, digests, agreed(records), rank) as prediction:
            for loop, loader in prediction.loops():
                prediction.trainer.predict(loop, loader, return_predictions=False)
            failed = prediction.complete(videos)
    if first:
        _report(folder, videos, failed)
    return SOME_FAILED if first and failed else 0  # what failed is the first rank's to say


def _is_scored(config: GenerateConfig, videos: Mapping[str, Path]) -> bool:
    """Whether the scores of these very videos are there, if there are to be any."""
    if not config.scored:
        return True
    from pixelwizard.evaluation.files import kept_scores

    return kept_scores(config, videos) is not None


def _report(folder: Path, videos: Mapping[str, Path], failed: Mapping[str, str]) -> None:
    """Print where the videos are, and say which prompts failed."""
    print(folder)
    for id, path in videos.items():
        if id not in failed and path.is_file():  # the others wait: a limit of the trainer
            print(path)
    sentences = [f"prompt {id} failed: {why}" for id, why in failed.items()]
    for sentence in sentences:
        say(sentence)
    if sentences:
        full = any(OUT_OF_MEMORY in why for why in failed.values())
        Failure("; ".join(sentences), full).write(folder)
