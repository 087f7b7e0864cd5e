"""Training targets of the detail network: flow matching and shortcut self-consistency.

Per step of training either every sample does flow matching with dt = 0, or every sample does
self-consistency: one step of size dt must land where two steps of dt/2 land
(arXiv 2410.12557, with the half steps taken in sigma). All functions are pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from pixelwizard.diffusion.flow import add_noise, shift_sigma, velocity
from pixelwizard.diffusion.schedules import (
    SHORTCUT_ANCHORS,
    SHORTCUT_HALVINGS,
    TRAIN_TIMESTEPS,
    even_step,
)

NetworkVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t, timestep [B], step size [B]) -> velocity."""

INDEX_BIAS = 0.7
SPAN_EXPONENT = 0.5
SPAN_LIMITS = (0.1, 10.0)


@dataclass(frozen=True)
class TrainingGrid:
    """The noise levels of training, from noise to data, and the weight of each in the loss.

    ``timesteps`` float32 [1000], strictly decreasing from 1000; ``weights`` [1000], mean 1.
    """

    timesteps: Tensor
    weights: Tensor

    def nearest(self, timestep: Tensor) -> Tensor:
        """Index of the grid point nearest to each timestep [B]."""
        return (self.timesteps[None] - timestep[:, None]).abs().argmin(dim=1)

    def snap(self, timestep: Tensor) -> Tensor:
        """The grid point nearest to each timestep [B]."""
        return self.timesteps[self.nearest(timestep)]

    def weight(self, timestep: Tensor) -> Tensor:
        """Loss weight of each timestep [B]."""
        return self.weights[self.nearest(timestep)]


def training_grid(shift: float, device: torch.device | str = "cpu") -> TrainingGrid:
    """1000 even sigmas from 1 downwards, shifted; weights are a bell around t = 500.

    The bell is exp(-2 ((t - 500) / 1000)^2), less its minimum, scaled to mean 1.
    """
    even = torch.linspace(1, 0, TRAIN_TIMESTEPS + 1, dtype=torch.float64, device=device)[:-1]
    timesteps = TRAIN_TIMESTEPS * shift_sigma(even, shift)
    bell = torch.exp(-2 * ((timesteps - TRAIN_TIMESTEPS / 2) / TRAIN_TIMESTEPS) ** 2)
    weights = bell - bell.min()
    return TrainingGrid(timesteps.float(), (weights / weights.mean()).float())


def flow_matching_target(x0: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy latent at ``timestep`` [B] and the velocity to predict there with dt = 0."""
    return add_noise(x0, noise, timestep / TRAIN_TIMESTEPS), velocity(x0, noise)


def sample_shortcuts(
    count: int, grid: TrainingGrid, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Timesteps and step sizes [count] of shortcut steps: the exponential index bias.

    The start is one of ``SHORTCUT_ANCHORS``, on the grid; the size is the anchor halved k times,
    even, with k drawn in proportion to exp(-0.7 k): long steps are the most frequent.
    """
    device = grid.timesteps.device
    bias = torch.exp(-INDEX_BIAS * torch.arange(SHORTCUT_HALVINGS, device=device))
    halvings = torch.multinomial(bias, count, replacement=True, generator=generator)
    anchors = torch.tensor(SHORTCUT_ANCHORS, device=device)
    picks = torch.randint(len(anchors), (count,), generator=generator, device=device)
    sizes = torch.tensor(
        [[even_step(a // 2**k) for k in range(SHORTCUT_HALVINGS)] for a in SHORTCUT_ANCHORS],
        device=device,
    )
    return grid.snap(anchors[picks].float()), sizes[picks, halvings].float()


@torch.no_grad()
def self_consistency_target(
    network: NetworkVelocity, x_t: Tensor, timestep: Tensor, step_size: Tensor, grid: TrainingGrid
) -> Tensor:
    """The mean velocity of two half steps from ``x_t``, for the prediction at (t, dt).

    The middle is the grid point nearest t - dt/2 and is reached by a step in sigma (noise-span
    aligned), so that it has exactly the noise level that the network is told there.
    """
    half = step_size / 2
    middle = grid.snap(timestep - half)
    first = network(x_t, timestep, half)
    span = (middle - timestep) / TRAIN_TIMESTEPS
    x_middle = x_t + span.view(-1, *[1] * (x_t.ndim - 1)) * first
    second = network(x_middle, middle, half)
    return (first + second) / 2


def noise_span_weights(timestep: Tensor, step_size: Tensor, grid: TrainingGrid) -> Tensor:
    """Loss weights [B] of self-consistency: the adaptive noise-span calibration.

    The base weight of t, times the root of the span of noise that the step crosses relative to
    the batch mean, clamped to [0.1, 10].
    """
    end = grid.snap(timestep - step_size)
    span = (end - timestep).abs() / TRAIN_TIMESTEPS
    factor = (span / span.mean()) ** SPAN_EXPONENT
    return grid.weight(timestep) * factor.clamp(*SPAN_LIMITS)
