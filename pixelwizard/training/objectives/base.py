"""The base class of objectives for networks that predict velocities; one objective per file.

B samples; the latents are [B, C, T, H, W]. Random numbers come from a generator on the CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelwizard.config.train import TrainConfig
from pixelwizard.training.targets import NetworkVelocity, TrainingGrid, training_grid

FLOW = "flow"


@dataclass(frozen=True)
class Target:
    """The regression target: ``velocity`` at (``x_t``, ``timestep_B``, ``step_size_B``)."""

    x_t: Tensor
    timestep_B: Tensor
    step_size_B: Tensor
    velocity: Tensor
    weight_B: Tensor


class Objective(ABC):
    """Makes the targets of a training, on the noise levels ``grid`` of its stage.

    ``kinds`` are those of its targets; held-out losses are of the first. An objective that
    ``uses_step_sizes`` trains the network's step-size conditioning. A user's class takes the
    configuration and its own settings, as keys of ``objective``.
    """

    kinds: tuple[str, ...] = (FLOW,)
    uses_step_sizes = True

    def __init__(self, config: TrainConfig) -> None:
        flow, size = config.objective.flow, config.resolution
        shift = size.anchor_shift if config.part == "anchor" else size.shift
        self.grid: TrainingGrid = training_grid(flow.shift or shift, flow)

    def target_kind(self, generator: torch.Generator, progress: float) -> str:
        """The kind of target of a step; ``progress`` of the training is in 0..1."""
        return self.kinds[0]

    @abstractmethod
    def target(
        self, kind: str, network: NetworkVelocity, x0: Tensor, generator: torch.Generator
    ) -> Target:
        """The target of ``network`` for the data ``x0``, with noise from ``generator``."""
