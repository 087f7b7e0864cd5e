"""The network that all arms start from: trained at their size, blind to step sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pixelwizard.comparison.few_step.files import few_step_folder, goal_file, read_config, start_of
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.train import TrainConfig
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import sinusoid
from pixelwizard.models.weights import load_detail, save_network

BLIND, DETAIL = "blind", "detail"


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
