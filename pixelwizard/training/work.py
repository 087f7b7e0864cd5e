"""Counts the passes of a training step: the objective asks a stand-in for its networks.

Passes give the time of a step (``measure/step_time.py``), one with gradient counting as three.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pixelwizard.config.geometry import PATCH
from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import keyed_generator
from pixelwizard.training.objectives.base import Objective, make_objective
from pixelwizard.training.passes import Conditions, Passes

WITH_GRADIENT = 3
"""What a pass with gradient costs, in passes without."""
DRAWN = 400
"""Steps whose mean is taken: their kinds are drawn."""


def equal_steps(config: TrainConfig) -> tuple[float, int]:
    """What a mean step costs in units of one of flow matching, which is one pass with gradient.

    And how many steps cost as much as ``trainer.max_steps`` of flow matching, at least one.
    """
    cost = mean_passes(config) / WITH_GRADIENT
    return cost, max(1, round(config.trainer.max_steps / cost))


def mean_passes(config: TrainConfig) -> float:
    """The passes of a mean step of the configured objective, in units of one without gradient."""
    objective = make_objective(config)
    return sum(passes_of(objective, step, config) for step in range(DRAWN)) / DRAWN


def kind_at(objective: Objective, step: int) -> str:
    """The kind of target of one of the ``DRAWN`` steps of a training."""
    objective.begin(step, step / DRAWN)
    return objective.target_kind(keyed_generator(0, step), step / DRAWN)


class _Counted:
    """A network whose passes are counted."""

    takes_step_size = True

    def __init__(self, trains: bool = True) -> None:
        self.trains, self.passes = trains, 0

    def encode_text(self, texts: Any) -> None:
        pass

    def encode_anchor(self, *given: Any) -> None:
        pass

    def __call__(self, x_t: Tensor, *inputs: Any) -> Tensor:
        self.passes += WITH_GRADIENT if torch.is_grad_enabled() and self.trains else 1
        return 0 * x_t


def passes_of(objective: Objective, step: int, config: TrainConfig) -> int:
    """The passes of one of the ``DRAWN`` steps."""
    kind, grid = kind_at(objective, step), (1, 1, 1)
    x0 = torch.zeros(config.objective.batch, config.backbone.dit.in_dim, 1, PATCH, PATCH)
    text = [torch.zeros(1, config.backbone.dit.text_dim)] * len(x0)
    conditions = Conditions(text, text, torch.ones(len(x0)) > 0, grid, anchor=x0)
    student = _Counted()
    further = {name: _Counted(trains=name != "teacher") for name in objective.networks}
    passes = Passes(student, conditions, **further)
    target = objective.target(kind, passes, x0, keyed_generator(0, step, "samples"))
    if target.found is None:
        passes(target.x_t, target.timestep_B, target.step_size_B)
    return sum(network.passes for network in (student, *further.values()))
