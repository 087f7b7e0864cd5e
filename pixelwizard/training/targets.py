"""Training targets: flow matching, shortcut self-consistency, derivatives along a path.

Per step of training either every sample does flow matching with dt = 0, or every sample does
self-consistency: one step of size dt must land where two steps of dt/2 land
(arXiv 2410.12557, with the half steps taken in sigma). All functions are pure.

The derivatives say how a network's velocity changes along a path whose end stays. The network is
u(x, sigma, d) with d the distance to the end r = sigma - d. Moving along the path at a fixed r
moves all three, so the derivative by sigma is du/dx direction + du/dsigma + du/dd.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixelwizard.config.objective import FlowSettings, ShortcutSettings
from pixelwizard.diffusion.sampling import add_noise, per_sample, velocity
from pixelwizard.diffusion.schedules import TRAIN_TIMESTEPS, Schedule, halved, shift_sigma
from pixelwizard.training.passes import NetworkVelocity

REFERENCE_FLOW, REFERENCE = FlowSettings(), ShortcutSettings()


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


def training_grid(shift: float, rule: FlowSettings = REFERENCE_FLOW) -> TrainingGrid:
    """1000 even sigmas from 1 downwards, shifted; weights are all 1, or of mean 1.

    ``bell``: exp(-steepness ((t - centre) / 1000)^2) less its minimum; ``beta``: sigma
    sqrt(1 - sigma).
    """
    even = torch.linspace(1, 0, TRAIN_TIMESTEPS + 1, dtype=torch.float64)[:-1]
    timesteps = TRAIN_TIMESTEPS * shift_sigma(even, shift)
    if rule.weighting == "uniform":
        return TrainingGrid(timesteps.float(), torch.ones(TRAIN_TIMESTEPS))
    sigmas = timesteps / TRAIN_TIMESTEPS
    if rule.weighting == "beta":
        weights = sigmas * (1 - sigmas).sqrt()
    else:
        bell = torch.exp(-rule.steepness * ((timesteps - rule.centre) / TRAIN_TIMESTEPS) ** 2)
        weights = bell - bell.min()
    return TrainingGrid(timesteps.float(), (weights / weights.mean()).float())


def flow_matching_target(x0: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """The noisy latent at ``timestep`` [B] and the velocity to predict there with dt = 0."""
    return add_noise(x0, noise, timestep / TRAIN_TIMESTEPS), velocity(x0, noise)


@dataclass(frozen=True)
class LongSteps:
    """The steps [N] that are halved into shortcut steps, each with its probability."""

    timesteps: Tensor
    sizes: tuple[int, ...]
    probabilities: Tensor


def reference_steps(grid: TrainingGrid, rule: ShortcutSettings = REFERENCE) -> LongSteps:
    """From each anchor, on the grid, all the way to 0; all equally likely."""
    timesteps = grid.snap(torch.tensor(rule.anchors, dtype=torch.float32))
    return LongSteps(timesteps, tuple(rule.anchors), torch.ones(len(rule.anchors)))


def scheduled_steps(schedules: Iterable[Schedule]) -> LongSteps:
    """Every step of the schedules, which know their step sizes; each schedule is as likely."""
    rows = [
        (step.timestep, step.dt, 1 / len(schedule.steps))
        for schedule in schedules
        for step in schedule.steps
        if step.dt is not None
    ]
    times, sizes, probabilities = zip(*rows, strict=True)
    return LongSteps(torch.tensor(times), sizes, torch.tensor(probabilities))


def sample_shortcuts(
    count: int,
    steps: LongSteps,
    rule: ShortcutSettings = REFERENCE,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Timesteps and step sizes [count] of shortcut steps: the exponential index bias.

    A step is drawn and its size halved k times, even, with k in proportion to
    exp(-index_bias k): long steps are the most frequent.
    """
    sizes = torch.tensor([halved(size, rule.halvings) for size in steps.sizes])
    bias = torch.exp(-rule.index_bias * torch.arange(rule.halvings))
    halvings = torch.multinomial(bias, count, replacement=True, generator=generator)
    picks = torch.multinomial(steps.probabilities, count, replacement=True, generator=generator)
    return steps.timesteps[picks], sizes[picks, halvings].float()


@torch.no_grad()
def self_consistency_target(
    network: NetworkVelocity,
    x_t: Tensor,
    timestep: Tensor,
    step_size: Tensor,
    grid: TrainingGrid,
    half_step: Literal["sigma", "timestep"] = "sigma",
) -> Tensor:
    """The mean velocity of two half steps from ``x_t``, for the prediction at (t, dt).

    ``sigma``: the middle is the grid point nearest t - dt/2 and is reached by a step in sigma
    (noise-span aligned), so it has exactly the noise level of the timestep that the network gets.
    ``timestep``: it is t - dt/2 itself, which the network may never have been told before.
    """
    half = step_size / 2
    middle = timestep - half
    if half_step == "sigma":
        middle = grid.snap(middle.to(grid.timesteps)).to(timestep)
    first = network(x_t, timestep, half)
    span = (middle - timestep) / TRAIN_TIMESTEPS
    x_middle = x_t + per_sample(span, x_t.ndim) * first
    second = network(x_middle, middle, half)
    return (first + second) / 2


def noise_span_weights(
    timestep: Tensor, step_size: Tensor, grid: TrainingGrid, rule: ShortcutSettings = REFERENCE
) -> Tensor:
    """Loss weights [B] of self-consistency: the adaptive noise-span calibration.

    The base weight of t, times the span of noise that the step crosses relative to the batch mean
    to the power ``span_exponent`` (0: no calibration), clamped to ``span_limits``.
    """
    end = grid.snap(timestep - step_size)
    span = (end - timestep).abs() / TRAIN_TIMESTEPS
    factor = (span / span.mean()) ** rule.span_exponent
    return grid.weight(timestep) * factor.clamp(*rule.span_limits)


@torch.no_grad()
def by_differences(
    network: NetworkVelocity,
    x_t: Tensor,
    timestep_B: Tensor,
    step_size_B: Tensor,
    direction: Tensor,
    difference: float,
) -> Tensor:
    """The derivative by sigma from two passes, ``difference`` timesteps to each side.

    Neither leaves the path: past its noisy end there is no pass, and none is beyond the end r
    (FastGen's rule; AnyFlow extrapolates). 0 where sigma is both the noisy end and r.
    """
    up_B = torch.where(timestep_B + difference <= TRAIN_TIMESTEPS, difference, 0.0)
    down_B = step_size_B.clamp(max=difference)

    def at(moved_B: Tensor) -> Tensor:
        x = x_t + per_sample(moved_B / TRAIN_TIMESTEPS) * direction
        return network(x, timestep_B + moved_B, step_size_B + moved_B)

    span_B = (up_B + down_B) / TRAIN_TIMESTEPS
    return (at(up_B) - at(-down_B)) / per_sample(span_B.clamp(min=1e-6))


@torch.no_grad()
def by_jvp(
    network: NetworkVelocity,
    x_t: Tensor,
    timestep_B: Tensor,
    step_size_B: Tensor,
    direction: Tensor,
) -> Tensor:
    """The same by forward-mode differentiation: exact, and one pass of about twice the work.

    Fused attention has no such derivative, so attention is written out: for short sequences.
    """
    pace_B = torch.full_like(timestep_B, TRAIN_TIMESTEPS)
    with sdpa_kernel(SDPBackend.MATH):
        inputs, tangents = (x_t, timestep_B, step_size_B), (direction, pace_B, pace_B)
        derivative: Tensor = torch.func.jvp(network, inputs, tangents)[1]
    return derivative
