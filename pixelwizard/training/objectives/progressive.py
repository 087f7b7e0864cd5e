"""Progressive distillation: one step of the student lands where two of its teacher's land.

Source: arXiv 2202.00512 (algorithm 2), for flows as in kvfrans/shortcut-models
(``targets_progressive.py``, MIT). The student takes N even steps before the shift, the teacher 2 N;
from sigma over m to r

    target = ((sigma - m) u_T(x, sigma) + (m - r) u_T(x_m, m)) / (sigma - r),
    x_m = x - (sigma - m) u_T(x, sigma).

Only points of the grid are trained. When a stage ends N is halved and the student becomes the
teacher; errors add up. Student and teacher are conditioned on the sizes of their steps, except the
first teacher, an ordinary flow with ``guidance``. Without gradients: the teacher.
Passes: 1 with gradient, 2 of the teacher without (4 in a guided first stage).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import noise_like, per_sample
from pixelwizard.diffusion.schedules import TRAIN_TIMESTEPS, shift_sigma
from pixelwizard.training.objectives.base import Objective, Target
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import flow_matching_target

HALVES = "halves"


class Progressive(Objective):
    """A stage for each number of steps; its student is the teacher of the next."""

    kinds = (HALVES,)
    networks = ("teacher",)
    keeps_teacher = True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.settings = config.objective.progressive
        self.stage = nn.Buffer(torch.tensor(0))

    def begin(self, step: int, progress: float) -> bool:
        super().begin(step, progress)
        stages = len(self.settings.counts)
        now = min(int(progress * stages), stages - 1)
        ended = now > int(self.stage)
        self.stage.fill_(now)
        return ended

    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        steps = self.settings.counts[int(self.stage)]
        start_B = 1 - torch.randint(steps, (len(x0),), generator=generator) / steps
        even_3B = torch.stack([start_B, start_B - 0.5 / steps, start_B - 1 / steps])
        times = TRAIN_TIMESTEPS * shift_sigma(even_3B.clamp(min=0), self.shift)
        time_B, middle_B, end_B = times.to(x0)
        x_t, _ = flow_matching_target(x0, noise_like(x0, generator), time_B)
        with torch.no_grad():
            velocity = self.two_steps(network, x_t, time_B, middle_B, end_B)
        return Target(x_t, time_B, time_B - end_B, velocity, torch.ones_like(time_B))

    def two_steps(
        self, network: Passes, x_t: Tensor, time_B: Tensor, middle_B: Tensor, end_B: Tensor
    ) -> Tensor:
        """The mean velocity of the teacher's two steps."""
        first_B, second_B = time_B - middle_B, middle_B - end_B
        first = self.teacher(network, x_t, time_B, first_B)
        x_middle = x_t - per_sample(first_B / TRAIN_TIMESTEPS) * first
        second = self.teacher(network, x_middle, middle_B, second_B)
        share = per_sample(first_B / (time_B - end_B))
        return share * first + (1 - share) * second

    def teacher(self, network: Passes, x_t: Tensor, time_B: Tensor, size_B: Tensor) -> Tensor:
        """The teacher's velocity over one of its steps."""
        if int(self.stage):
            return network.teacher(x_t, time_B, size_B)
        none_B = torch.zeros_like(size_B)
        return network.teacher.guided(self.settings.guidance, x_t, time_B, none_B)
