"""Which steps to skip: a shortest path over the changes measured in whole runs.

As MeanCache (arXiv 2601.19961) chooses its steps: nodes are steps, and an edge from step i to
step j computes i and skips those between. Its length is the square of the error that the velocity
of step i makes on the way from step i + 1 to step j. The best pattern is a shortest path with a
given number of nodes. Errors of later edges do not see those of earlier ones, so the sum is too
small; ``generate`` and ``compare`` measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pixelwizard.config.generate import PlanConfig
from pixelwizard.diffusion.sampling import initial_noise
from pixelwizard.diffusion.schedules import Schedule, make_schedule
from pixelwizard.generation.placement import ModelLoader, plan_of
from pixelwizard.io.terminal import Line, aligned
from pixelwizard.models.checkpoints import require_weights
from pixelwizard.models.weights import load_anchor, load_detail, load_text_encoder
from pixelwizard.stages.latents import Anchor, Detail, EncodeText

SHARES = 8
"""Patterns are shown for this many eighths of the steps, and for every number of few steps."""
FEW = 10


@dataclass(frozen=True)
class SkipPlan:
    """The best ``pattern`` of a stage that computes so many steps; ``error``: expected, squared."""

    stage: str
    computed: int
    steps: int
    pattern: str
    error: float


def search_skips(config: PlanConfig, texts: Sequence[str]) -> list[SkipPlan]:
    """Sample the texts without skipping, then find patterns for both stages."""
    require_weights(config.backbone, ("text_encoder", "anchor", "detail"))
    line = Line()
    try:
        trails = _trails(config, texts, line)
    finally:
        line.show("")
    found = []
    for stage, (schedule, latents) in trails.items():
        errors = edge_errors(schedule.sigmas, latents)
        for computed in _counts(len(schedule.steps)):
            steps, error = shortest_path(errors, computed)
            marks = ("1" if index in steps else "0" for index in range(len(schedule.steps)))
            found.append(SkipPlan(stage, computed, len(errors), "".join(marks), error))
    return found


def _trails(
    config: PlanConfig, texts: Sequence[str], line: Line
) -> dict[str, tuple[Schedule, list[Tensor]]]:
    """The latents of every stage before its first step and after each: [N + 1, C, T, H, W]."""
    size, backbone = config.resolution, config.backbone
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype, channels = getattr(torch, backbone.dtype), backbone.dit.in_dim
    networks = ModelLoader(config, plan_of(config))
    encode = EncodeText(networks.load("text", load_text_encoder, device, dtype))
    pairs = [(encode(text), encode(backbone.negative_prompt)) for text in texts]
    del encode
    ways: dict[str, Any] = {
        "anchor": ("anchor", size.anchor_shift, size.anchor_geometry, load_anchor, Anchor),
        "detail": ("schedule", size.shift, size.geometry, load_detail, Detail),
    }
    trails: dict[str, tuple[Schedule, list[Tensor]]] = {}
    anchors: list[list[Tensor]] = [[] for _ in pairs]
    for name, (key, shift, geometry, load, make) in ways.items():
        sampler = getattr(config, key)
        schedule = make_schedule(replace(sampler, skip="none"), shift, key)
        stage = make(networks.load(name, load, device, dtype), schedule, sampler.guidance)
        latents = []
        for number, (anchor, pair) in enumerate(zip(anchors, pairs, strict=True)):
            line.show(f"{name} {number + 1}/{len(pairs)}")
            run = [initial_noise((channels, *geometry.latent_grid), number, device)]
            given = (latent.to(device) for latent in anchor)
            stage(run[0], *given, *pair, on_step=lambda state, run=run: run.append(state.latent[0]))
            latents.append(torch.stack([latent.cpu() for latent in run]))
        anchors = [[latent[-1]] for latent in latents]
        trails[name] = (schedule, latents)
    return trails


def edge_errors(sigmas: Sequence[float], trails: Sequence[Tensor]) -> Tensor:
    """[N, N + 1]: the mean square error of computing step i and skipping i + 1 .. j - 1.

    ``sigmas`` are N + 1, ``trails`` the latents [N + 1, ...] of each run. Step i's own way gives
    its mean velocity; between i + 1 and j it replaces the others'. Infinite where j <= i.
    """
    count = len(sigmas) - 1
    errors = torch.full((count, count + 1), torch.inf, dtype=torch.float64)
    for i in range(count):
        errors[i, i + 1 :] = 0.0
        for trail in trails:
            velocity = (trail[i + 1] - trail[i]) / (sigmas[i + 1] - sigmas[i])
            for j in range(i + 2, count + 1):
                gone = (sigmas[j] - sigmas[i + 1]) * velocity - (trail[j] - trail[i + 1])
                errors[i, j] += gone.double().square().mean() / len(trails)
    return errors


def shortest_path(errors: Tensor, computed: int) -> tuple[list[int], float]:
    """The ``computed`` steps, the first of them 0, whose edges to the end have the least sum."""
    count = len(errors)
    least = errors.new_full((computed + 1, count + 1), torch.inf)
    before = torch.zeros(computed + 1, count + 1, dtype=torch.int64)
    least[0, 0] = 0.0
    for number in range(computed):
        least[number + 1], before[number + 1] = (least[number, :count, None] + errors).min(dim=0)
    path = [count]
    for number in range(computed, 0, -1):
        path.insert(0, int(before[number, path[0]]))
    return path[:-1], float(least[computed, count])


def _counts(steps: int) -> list[int]:
    """How many steps the shown patterns compute."""
    if steps <= FEW:
        return list(range(1, steps))
    return sorted({max(1, round(steps * share / SHARES)) for share in range(1, SHARES)})


def skip_table(plans: Sequence[SkipPlan]) -> str:
    """The patterns as text, with the setting that uses the first."""
    rows = [("stage", "computed", "pattern", "expected error")]
    for plan in plans:
        of = f"{plan.computed} of {plan.steps}"
        rows.append((plan.stage, of, plan.pattern, f"{plan.error:.2e}"))
    key = "anchor.skip" if plans[0].stage == "anchor" else "schedule.skip"
    use = f"use one as \"{key}={{name: mask, pattern: '{plans[0].pattern}'}}\""
    return "\n".join([*aligned(rows, left=(0, 2)), use])
