"""One run of a comparison: the starting network or an arm is trained, then measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pixelwizard.comparison.few_step.files import (
    ARM,
    BACKBONE,
    START,
    few_step_folder,
    measured_in,
    start_of,
)
from pixelwizard.comparison.few_step.measuring import Measuring
from pixelwizard.comparison.few_step.start import (
    blind_file,
    export_file,
    load_from,
    make_blind,
    require_start,
)
from pixelwizard.config.generate import STEP_SIZES
from pixelwizard.config.objective import TAUGHT, ObjectiveSettings
from pixelwizard.config.schema import ConfigError, choice
from pixelwizard.config.targets import title
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import write_json
from pixelwizard.models.weights import load_detail
from pixelwizard.parallel.mesh import Rank
from pixelwizard.training.objectives.base import make_objective
from pixelwizard.training.train import train
from pixelwizard.training.work import equal_steps


def train_compared(config: TrainConfig, rank: Rank | None = None) -> int:
    """Train what a configuration with ``comparison.budget`` asks for, and measure it.

    Returns the exit code, 0. Raises as ``train`` does, and ConfigError without a starting network.
    """
    rank = rank or Rank()
    if config.comparison.budget == START:
        code = train(config, rank)
        if rank.is_first:
            measure_start(config, rank.device)
        return code
    arm = as_arm(config)
    cost, steps = equal_steps(arm)
    if config.comparison.budget == "work":
        arm = replace(arm, trainer=replace(arm.trainer, max_steps=steps))
    code = train(arm, rank)
    if rank.is_first:
        write_json(few_step_folder(config.run_dir) / "cost.json", {"passes": cost, "steps": steps})
        measure_arm(arm, rank.device)
    return code


def as_arm(config: TrainConfig) -> TrainConfig:
    """The training from the starting network, with the guidance of the schedule trained in."""
    weights = str(require_start(config))
    rule = replace(with_guidance(config.objective, config.schedule.guidance), init_from=weights)
    arm = replace(config, objective=rule)
    sizes = make_objective(arm).sampled_with
    if sizes not in STEP_SIZES:
        name = f"sampled_with of objective={title(rule.part)}"
        raise ConfigError(choice(name, sizes, STEP_SIZES))
    return arm


def with_guidance(rule: ObjectiveSettings, scale: float) -> ObjectiveSettings:
    """An objective with another scale: its teacher's, or of the velocities that it learns."""
    taught = rule.target is None and rule.kind in TAUGHT
    place = rule.kind if taught else "flow"
    return replace(rule, **{place: replace(getattr(rule, place), guidance=scale)})  # type: ignore[arg-type]


def measure_start(config: TrainConfig, device: torch.device) -> None:
    """The goals of all clips, and the figures of the blind network and the backbone's own."""
    folder = Path(config.run_dir)
    if not blind_file(folder).is_file():
        make_blind(config)
    measuring = Measuring(config, folder, device)
    blind = load_from(blind_file(folder), config.backbone, device)
    guidance = config.schedule.guidance
    measuring.make_goals(blind, guidance)
    measuring.look_at_real()
    sampler = {"step_sizes": "raw", "guidance": guidance}
    for name in measured_in(config):
        network = load_detail(config.backbone, device) if name == BACKBONE else blind
        measuring.measure(name, network, sampler, name)


def measure_arm(config: TrainConfig, device: torch.device) -> None:
    """The figures of a trained arm."""
    measuring = Measuring(config, start_of(config), device)
    network = load_from(export_file(config.run_dir), config.backbone, device)
    sampler = {"step_sizes": make_objective(config).sampled_with, "guidance": 1.0}
    measuring.measure(ARM, network, sampler, title(config.objective.part))
