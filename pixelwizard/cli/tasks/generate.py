"""``pixelwizard [generate]``: videos from text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.tasks import Command
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.geometry import windows_of
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import title
from pixelwizard.data.prompts import Prompt, prompts_of, table_of
from pixelwizard.data.table import find_videos
from pixelwizard.diffusion.schedules import stage_schedules
from pixelwizard.io.terminal import say
from pixelwizard.launch.devices import mesh_of
from pixelwizard.models.checkpoints import require_weights, weights_digests, weights_folder
from pixelwizard.models.wan.layouts import advice, refuse_exact
from pixelwizard.records import provenance
from pixelwizard.records.provenance import make_jobs
from pixelwizard.stages.precision import settled

EXAMPLES = """\
  pixelwizard                                        four demo videos with the built-in miniature
  pixelwizard --prompt "a red circle moves left over a gray background"
  pixelwizard prompts=prompts.csv seed=7             .txt, .csv, .jsonl ...: one video per row
  pixelwizard --video clip.mp4 --prompt "a dog"      this clip at a higher resolution
  pixelwizard --image dog.png --prompt "a dog runs"  a video that begins with this picture
  pixelwizard schedule=euler4 schedule.steps=6       another schedule, another number of steps
  pixelwizard metrics=tiny reference=DIR             FVD and others against real videos
  pixelwizard -m schedule=shortcut4,euler4 seed=0,1  every combination, in sweep_dir=FOLDER
  pixelwizard prompts=prompts.txt parallel=prompts parallel.prompts=2      two at a time
  pixelwizard backbone=wan2_2_ti2v_5b resolution=2k backbone.folder=DIR backbone.detail=FILE"""


def check(config: GenerateConfig) -> None:
    """Refuse what cannot run before anything is written: prompts, schedules, weights, networks.

    Raises ValueError.
    """
    prompts = prompts_of(config)
    provenance.check_names(config, prompts)
    table_of(config).tell()
    if all(prompt.clip for prompt in prompts):
        say("every prompt is a clip, which takes the anchor's place: anchor.* has no part in it")
    usual = config.backbone.negative_prompt
    if not config.guided and any(prompt.negative_prompt not in ("", usual) for prompt in prompts):
        say("no step of either stage is guided: negative prompts have no part in these videos")
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
            " in theirs; use parallel.shard=sequence, or refine clips of other lengths in a run of"
            " their own"
        )


def finished(config: GenerateConfig) -> bool:
    """Whether all videos are finished, made with these settings and the current weights."""
    config = settled(config)
    jobs = make_jobs(config, prompts_of(config), weights_digests(config.backbone))
    return all(provenance.finished(config, job) for job in jobs)


COMMAND = Command(EXAMPLES, check, finished=finished)
