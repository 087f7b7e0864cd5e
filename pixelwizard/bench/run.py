"""``bench``: the rates of the machine, then every stage at every size, reported as measured."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pixelwizard.bench.few_blocks import too_long
from pixelwizard.bench.pipeline import Case, Pipeline
from pixelwizard.bench.rates import keep, measure_rates
from pixelwizard.bench.report import (
    BenchResult,
    PeerResult,
    SizeResult,
    StageResult,
    markdown,
    peers_markdown,
)
from pixelwizard.config.generate import PlanConfig
from pixelwizard.config.geometry import TEMPORAL_STRIDE
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.tasks import BenchConfig
from pixelwizard.generation.placement import device_name
from pixelwizard.io.files import write_json, write_text
from pixelwizard.io.terminal import STAGES, Remaining
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.planning.decode_cost import TRACED
from pixelwizard.planning.planner import make_plan
from pixelwizard.planning.report import Plan
from pixelwizard.records.provenance import versions
from pixelwizard.stages.precision import settled

PROCESSOR_TFLOP = 1.0
"""A forward's matrix products that a processor does in seconds."""


def bench(config: BenchConfig) -> int:
    """Measure, write bench.json and bench.md after every stage, print one; returns the exit code.

    Raises ValueError where the device cannot do it: no GPU, too little memory.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, folder = settled(config), Path(config.run_dir)
    found = _peers(device) if config.against == "diffusers" else _stages(config, device)
    for values, page in found:
        write_json(folder / "bench.json", values)
        write_text(folder / "bench.md", page)
    print(json.dumps(values) if config.format == "json" else page, end="", flush=True)
    return 0


def _stages(config: BenchConfig, device: torch.device) -> Iterator[tuple[dict[str, Any], str]]:
    """All that is found as plain values and as a page, after every stage."""
    wholes, names = list(config.wholes()), (config.backbone.name, config.backbone.dtype)
    if device.type == "cpu":
        for whole in wholes:
            refuse_hours(whole)
    remaining, end = Remaining(), time.monotonic() + 60 * config.bench.minutes
    try:
        remaining.enter("rates of the machine")
        device_rates = measure_rates(device, device_name())
        keep(device_rates)
        remaining.enter("plan")
        cases = [make_case(config, whole) for whole in wholes]
        for sizes in _measured(cases, device, remaining, end):
            if device.type == "cuda":
                device_rates = replace(device_rates, reached=reached(sizes))
                keep(device_rates)
            found = BenchResult(device_name(), versions(), *names, device_rates, sizes)
            yield asdict(found), markdown(found)
    finally:
        remaining.close()


def _peers(device: torch.device) -> Iterator[tuple[dict[str, Any], str]]:
    """The same of our networks beside those of diffusers, after every pair."""
    from pixelwizard.bench.peers import against_diffusers

    name, about = device_name(), versions() | {"diffusers": metadata.version("diffusers")}
    found: list[PeerResult] = []
    for result in against_diffusers(device):
        found.append(result)
        values = {"device": name, "versions": about, "peers": [asdict(r) for r in found]}
        yield values, peers_markdown(name, about, found)


def reached(sizes: Iterable[SizeResult]) -> dict[str, float]:
    """The share of the best rates that each stage reached, at the last size where it ran.

    The plans of a bench are made with the best rates alone.
    """
    stages = [stage for size in sizes for stage in size.stages]
    return {s.name: round(s.planned_full_seconds / s.full_seconds, 3) for s in stages}


def refuse_hours(config: PlanConfig) -> None:
    """Raise ConfigError for sizes that a processor would spend hours on."""
    with torch.device("meta"):
        weights = sum(p.numel() for p in WanDiT(config.backbone.detail_dit).parameters())
    size = config.resolution
    if 2 * weights * size.geometry.tokens > PROCESSOR_TFLOP * 1e12:
        raise ConfigError(
            f"bench with backbone={config.backbone.name} at {size.width}x{size.height},"
            f" {size.frames} frames, needs a GPU and torch finds none here; use bench=quick"
        )


def make_case(config: BenchConfig, whole: PlanConfig) -> Case:
    """A size with its plans. Raises ValueError if a stage cannot run on the device."""
    short = config.shortened(whole)
    frames = min(whole.resolution.frames, TEMPORAL_STRIDE * (TRACED - 1) + 1)
    few = replace(whole, resolution=replace(whole.resolution, frames=frames))
    few_frames = make_plan(few, only=["decode"]).seconds
    return Case(whole, short, _possible(whole), _possible(short), few_frames)


def _possible(config: PlanConfig) -> Plan:
    plan = make_plan(config)
    if plan.refusal:
        raise ValueError(plan.refusal)
    return plan


def _measured(
    cases: list[Case], device: torch.device, remaining: Remaining, end: float
) -> Iterator[tuple[SizeResult, ...]]:
    """The results so far after every stage, so a stopped bench keeps them.

    The longest stages run with few blocks where all would not be done by ``end``.
    """
    pipelines = [Pipeline(case, device, remaining.share) for case in cases]
    parts = {_part(p, stage): (p, stage) for p in pipelines for stage in STAGES}
    ahead = {part: p.expected(stage) for part, (p, stage) in parts.items()}
    shorter = {
        part: few.share * ahead[part] for part, (p, stage) in parts.items() if (few := p.few(stage))
    }
    remaining.expect(ahead)
    finished: tuple[SizeResult, ...] = ()
    for pipeline in pipelines:
        stages: list[StageResult] = []
        for name, measure in pipeline.parts():
            part = _part(pipeline, name)
            remaining.enter(part)
            pipeline.shortened = part in too_long(ahead, shorter, end - time.monotonic())
            stages.append(measure())
            del ahead[part]
            shorter.pop(part, None)
            yield (*finished, pipeline.result(stages))
        finished = (*finished, pipeline.result(stages))


def _part(pipeline: Pipeline, stage: str) -> str:
    size = pipeline.case.short.resolution
    return f"{stage} {size.width}x{size.height}"
