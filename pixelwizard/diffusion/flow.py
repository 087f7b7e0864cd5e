"""The rectified-flow path between data and noise.

Time convention of the whole project: sigma runs from 1 (pure noise) to 0 (data), the timestep is
t = 1000 sigma, the path is x = (1 - sigma) x0 + sigma noise, and networks predict its derivative
v = dx/dsigma = noise - x0.
"""

from __future__ import annotations

from typing import Sequence, TypeVar

import torch
from torch import Tensor

FloatOrTensor = TypeVar("FloatOrTensor", float, Tensor)


def shift_sigma(sigma: FloatOrTensor, shift: float) -> FloatOrTensor:
    """Moves sigma in [0, 1] towards noise: s sigma / (1 + (s - 1) sigma); 0 and 1 stay."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """The point of the path at ``sigma``, a number or one value per sample ([B])."""
    sigma = _per_sample(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """dx/dsigma of the path, the same at every sigma."""
    return noise - x0


def initial_noise(shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal float32 noise from a separate generator on ``device``."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape, the type and on the device of ``x``.

    ``generator`` is on the CPU. For a GPU it draws the seed of a generator there: a CPU takes
    nearly as long for the noise of a batch as a GPU for the whole step of a small network.
    """
    if x.device.type == "cpu":
        return torch.randn(x.shape, generator=generator).to(x)
    seed = int(torch.randint(2**62, (), generator=generator))
    return initial_noise(x.shape, seed, x.device).to(x)


def _per_sample(sigma: Tensor | float, like: Tensor) -> Tensor | float:
    """Reshapes [B] to [B, 1, 1, ...] so that it multiplies ``like``; numbers pass."""
    if isinstance(sigma, Tensor) and sigma.ndim == 1:
        return sigma.view(-1, *[1] * (like.ndim - 1))
    return sigma
