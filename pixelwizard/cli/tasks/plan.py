"""``pixelwizard plan``: time and memory of a run, on any machine, with nothing loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pixelwizard.cli.tasks import Command
from pixelwizard.config.generate import PlanConfig
from pixelwizard.config.geometry import TEMPORAL_STRIDE, ResolutionSettings, windows_of
from pixelwizard.config.parallel import planned_mesh
from pixelwizard.data.prompts import DEMO_PROMPTS, given_clips, need_clips
from pixelwizard.data.source_files import Source, source_of
from pixelwizard.diffusion.schedules import draw_schedules, schedule_table, stage_schedules

EXAMPLES = """\
  pixelwizard plan                                    2K with the full-size backbone
  pixelwizard plan resolution=4k memory.budget_gb=24  a placement that fits a 24 GB card
  pixelwizard plan resolution=4k memory=stream        weights streamed from host memory
  pixelwizard plan device=rtx4090 format=json         one JSON object on stdout
  pixelwizard plan parallel=auto parallel.devices=8   memory of eight ranks, and the speed-up
  pixelwizard plan train=detail "gpus=[1,8]"          memory of a training step
  pixelwizard plan backbone=tiny resolution=demo schedule=unipc8 skip=search
                                                      the best steps to skip, by sampling here
  pixelwizard plan outputs/schedules metrics=real n=48
                                                      differences that 48 pairs can detect
  pixelwizard plan outputs/schedules "scores=[niqe,ti]" n=48    only these scores
  pixelwizard plan --video clip.mp4 resolution=4k     refining a clip
  pixelwizard plan schedule=shortcut8 plot=steps.png  every step, also as a plot"""


def check(config: PlanConfig) -> None:
    """Refuse clips that cannot be read. Raises ConfigError."""
    _largest(config)


def _largest(config: PlanConfig) -> tuple[Source, ResolutionSettings] | None:
    """The clip whose video has most pixels in a frame, then most frames, and that video's sizes."""
    clips = [source_of("video", path, place) for place, path in given_clips(config)]
    need_clips(config, clips)
    sized = [(clip, clip.sizes(config.resolution)) for clip in clips]
    return max(sized, key=lambda one: (one[1].width * one[1].height, one[1].frames), default=None)


def _described(clip: Source, size: ResolutionSettings, window: int) -> str:
    """A clip and what it becomes, in a line."""
    geometry = size.geometry
    count = len(windows_of(geometry.latent_grid[0], (window - 1) // TEMPORAL_STRIDE + 1))
    windows = f", in {count} windows of {window}" if count > 1 else ""
    return (
        f"{clip.path.name}, {clip.width}x{clip.height}, {clip.frames} frames ->"
        f" {size.width}x{size.height}{windows}"
    )


def run(config: PlanConfig, command_line: Sequence[str]) -> int:
    """Print plan and schedules; returns 2 if a stage does not fit, and says what would."""
    if config.train is not None:
        return _show(config, *_training(config, config.train))
    if config.power:
        return _show(config, *_power(config))
    if config.skip is not None:
        return _show(config, *_search(config))
    from pixelwizard.planning.planner import make_plan  # torch: only where something is traced
    from pixelwizard.planning.report import table
    from pixelwizard.planning.scaling import scaling, scaling_table

    mesh, several = planned_mesh(config), config.parallel.mode != "single"
    found_clip = _largest(config)
    clip = found_clip[1] if found_clip else None
    anchor = None if clip else config.anchor
    schedules = stage_schedules(anchor, config.schedule, config.resolution, config.refine.sigma)
    plan = make_plan(config, config.device, mesh=mesh, clip=clip)
    scales = scaling(config, config.device, clip=clip) if several else []
    found = {**plan.to_json(), "scaling": [asdict(scale) for scale in scales]}
    found |= {"clip": asdict(clip)} if clip else {}
    found["schedules"] = {stage.stage: stage.to_json() for stage in schedules}
    parts = [_described(*found_clip, config.resolution.frames)] if found_clip else []
    parts += [schedule_table(schedules), table(plan)]
    _show(config, found, "\n\n".join([*parts, *([scaling_table(scales)] if scales else [])]))
    if config.plot is not None:
        draw_schedules(schedules, Path(config.plot))
    if plan.refusal:
        raise ValueError(plan.refusal)
    return 0


def _show(config: PlanConfig, found: dict[str, Any], text: str) -> int:
    print(json.dumps(found) if config.format == "json" else text, flush=True)
    return 0


def _power(config: PlanConfig) -> tuple[dict[str, Any], str]:
    from pixelwizard.comparison.differences import compare
    from pixelwizard.comparison.power import power_of, power_table
    from pixelwizard.comparison.variants import read_variants

    comparison = compare(*read_variants([Path(folder) for folder in config.power]))
    found, notes = power_of(comparison, config)
    return {"power": [asdict(one) for one in found], "notes": notes}, power_table(found, notes)


def _training(config: PlanConfig, part: str) -> tuple[dict[str, Any], str]:
    from pixelwizard.planning.training_cost import plan_training, training_table

    plans = plan_training(config)
    found = {"train": part, "plans": [plan.to_json() for plan in plans]}
    return found, training_table(part, plans)


def _search(config: PlanConfig) -> tuple[dict[str, Any], str]:
    from pixelwizard.generation.skip_search import search_skips, skip_table

    plans = search_skips(config, DEMO_PROMPTS)
    return {"skip": [asdict(plan) for plan in plans]}, skip_table(plans)


COMMAND = Command(EXAMPLES, check, run, word="power", words=True)
