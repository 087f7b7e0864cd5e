"""The base class of solvers. No shipped solver imports torch, so schedules work without it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Asking = Callable[["Tensor", float], "Tensor"]
"""Evaluates the network: (latent, sigma) -> velocity."""
History = tuple["Tensor", ...]
"""What a solver remembers of earlier steps."""


class Solver(ABC):
    """Integrates dx/dsigma = v(x, sigma) from noise to data, one step per call.

    An instance has no state: the history that a solver needs is the tensors that it returns, so an
    interrupted run resumes to the same bits.
    """

    first_sigma = 0.9990000128746033
    """Where the even grid of ``steps`` begins, before the shift; it ends at 0.

    0.999 in float32, as in Wan2.2's ``fm_solvers_unipc.py``.
    """

    def evaluations(self, index: int, steps: int) -> int:
        """The number of network evaluations in step ``index`` of ``steps``."""
        return 1

    @abstractmethod
    def step(
        self, sigmas: Sequence[float], index: int, x: Tensor, velocity: Asking, history: History
    ) -> tuple[Tensor, History]:
        """The latent at ``sigmas[index + 1]``, and the history for the next step; all float32.

        ``x`` is the latent at ``sigmas[index]``, ``velocity(x, sigma)`` evaluates the network, and
        ``history`` is what the previous step returned, empty at first.
        """


def data_weight(s: float, t: float) -> float:
    """Weight of x0 in an exponential step from sigma s to t: alpha_t (1 - exp(-h))."""
    return (1 - t) - (1 - s) * t / s


def log_snr(sigma: float) -> float:
    """lambda = log(alpha / sigma), minus infinity at pure noise and infinity at data."""
    if sigma <= 0:
        return math.inf
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
