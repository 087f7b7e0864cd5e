"""Euler's method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pixelwizard.diffusion.solvers.base import Asking, History, Solver

if TYPE_CHECKING:
    from torch import Tensor


class Euler(Solver):
    """x + (sigma_next - sigma) v: first order, remembers nothing."""

    def step(
        self, sigmas: Sequence[float], index: int, x: Tensor, velocity: Asking, history: History
    ) -> tuple[Tensor, History]:
        return x + (sigmas[index + 1] - sigmas[index]) * velocity(x, sigmas[index]), ()
