"""One run of a comparison: the starting network or an arm is trained, then measured.

All arms start from one network, trained at their size and blind to step sizes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pixelwizard.comparison.few_step.files import (
    ARM,
    BACKBONE,
    START,
    few_step_folder,
    goal_file,
    measured_in,
    read_config,
    start_of,
)
from pixelwizard.comparison.few_step.measuring import Measuring
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import STEP_SIZES
from pixelwizard.config.objective import TAUGHT, ObjectiveSettings
from pixelwizard.config.schema import ConfigError, choice
from pixelwizard.config.targets import title
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import write_json
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import sinusoid
from pixelwizard.models.weights import load_detail, save_network
from pixelwizard.parallel.mesh import Rank
from pixelwizard.training.objectives.base import make_objective
from pixelwizard.training.train import train
from pixelwizard.training.work import equal_steps

BLIND, DETAIL = "blind", "detail"


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


def blind_file(run: Path) -> Path:
    """The weights of the starting network, below its run folder."""
    return few_step_folder(run) / BLIND / NAMES[DETAIL][0]


def export_file(run: str | Path) -> Path:
    """The weights of a detail network that a run has trained."""
    return Path(run) / "export" / NAMES[DETAIL][0]


def load_from(file: Path, backbone: BackboneSettings, device: torch.device) -> ShortcutDiT:
    """The backbone's detail network with the weights of a file."""
    return load_detail(replace(backbone, detail=str(file), lora=[]), device)


def make_blind(config: TrainConfig) -> None:
    """Keep what a run has trained with every step size answered as 0 is; float32."""
    file = export_file(config.run_dir)
    network = load_from(file, config.backbone, torch.device("cpu"))
    for projection in (network.dt_embedding, network.spatial_adapter.adapter_dt_proj):
        blind(projection)
    save_network(network, DETAIL, few_step_folder(config.run_dir) / BLIND, torch.float32)


@torch.no_grad()
def blind(projection: Any) -> None:
    """Make a projection of step sizes answer every one as it answers 0."""
    first, middle, last = projection
    last.bias.copy_(last(middle(first(sinusoid(torch.zeros(1), first.in_features))))[0])
    last.weight.zero_()


def require_start(config: TrainConfig) -> Path:
    """The weights that an arm starts from. Raises ConfigError without those of a start its size."""
    run = start_of(config)
    file = blind_file(run)
    if not file.is_file():
        raise ConfigError(
            f"comparison.budget={config.comparison.budget} needs a starting network, and {run} has"
            " none; run the experiment as a sweep, which makes it first, or name the folder of one"
            " with comparison.start"
        )
    size = read_config(run).resolution
    if size != config.resolution:
        raise ConfigError(
            f"comparison.start={run} was trained at {size.width}x{size.height} with {size.frames}"
            " frames; give the arms the same resolution"
        )
    count = config.comparison.clips
    there = next((n for n in range(count) if not goal_file(run, n).is_file()), count)
    if there < count:
        raise ConfigError(
            f"comparison.clips={count} is more than the starting network in {run} was sampled for;"
            f" nearest: {there}"
        )
    return file
