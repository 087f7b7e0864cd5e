"""The base class of objectives for networks that predict velocities; one objective per file.

B samples; the latents are [B, C, T, H, W]. Random numbers come from a generator on the CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelwizard.config.objective import OBJECTIVES
from pixelwizard.config.train import TrainConfig
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import TrainingGrid, training_grid

FLOW = "flow"


@dataclass(frozen=True)
class Target:
    """The regression target: ``velocity`` at (``x_t``, ``timestep_B``, ``step_size_B``).

    ``rescale`` maps the samples' mean square errors [B], without gradients, to further factors
    of their losses. ``found`` is compared with ``velocity`` if the objective has made its own
    passes with gradients; without it the student is evaluated at the target's place.
    """

    x_t: Tensor
    timestep_B: Tensor
    step_size_B: Tensor
    velocity: Tensor
    weight_B: Tensor
    rescale: Callable[[Tensor], Tensor] | None = None
    found: Tensor | None = None


class Objective(nn.Module, ABC):
    """Computes the targets of a training run, on the noise levels ``grid`` of its stage.

    ``kinds`` are the kinds of its targets; the held-out loss is that of the first, ``probability``
    is that of the second. An objective that ``uses_step_sizes`` trains the network's step-size
    conditioning. A user's class takes the configuration and its own settings, as keys of
    ``objective``.

    ``networks`` names further networks that it uses: a frozen ``teacher``, and a ``score`` network
    that starts as the teacher and is trained in the steps of the kind ``score``, at ``score_lr``
    times the learning rates. ``keeps_teacher``: the teacher changes, so checkpoints contain it.
    Checkpoints contain buffers too. ``step`` and ``progress`` (0..1) are those of the
    run when a step begins. ``sampled_with`` are the step sizes that its network is sampled
    with (``schedule.step_sizes``): ``raw``, or ``none`` where it learns none.
    """

    kinds: tuple[str, ...] = (FLOW,)
    uses_step_sizes = True
    networks: tuple[str, ...] = ()
    probability = 0.0
    score_lr = 1.0
    keeps_teacher = False

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        flow, size = config.objective.flow, config.resolution
        shift = size.anchor_shift if config.part == "anchor" else size.shift
        self.shift = flow.shift or shift
        self.grid: TrainingGrid = training_grid(self.shift, flow)
        self.step, self.progress = 0, 0.0
        self.sampled_with = "raw" if self.uses_step_sizes else "none"

    def begin(self, step: int, progress: float) -> bool:
        """Called before a step; True copies the student's weights to the teacher first."""
        self.step, self.progress = step, progress
        return False

    def target_kind(self, generator: torch.Generator, progress: float) -> str:
        """The kind of target of a step: the second with ``probability``, else the first.

        ``progress`` of the training is in 0..1.
        """
        lucky = bool(torch.rand((), generator=generator) < self.probability)
        return self.kinds[1] if lucky else self.kinds[0]

    @abstractmethod
    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        """The target of ``network`` for the data ``x0``, with noise from ``generator``.

        ``network(x_t, timestep_B, step_size_B)`` is a pass of the student.
        """

    def learn(self, kind: str, error: float) -> None:
        """Called after every step with its kind and the mean error of all samples of all ranks."""


def make_objective(config: TrainConfig) -> Objective:
    """The configured objective. Raises ConfigError if it cannot be made."""
    return OBJECTIVES.make(config.objective.part, "objective", config=config)
