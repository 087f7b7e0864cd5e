"""How a network's velocity changes along a path whose end stays: without gradients.

The network is u(x, sigma, d) with d the distance to the end r = sigma - d. Moving along the path at
a fixed r moves all three, so the derivative by sigma is du/dx direction + du/dsigma + du/dd. B
samples; times and sizes in timesteps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixelwizard.diffusion.sampling import per_sample
from pixelwizard.diffusion.schedules import TRAIN_TIMESTEPS
from pixelwizard.training.passes import NetworkVelocity


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
