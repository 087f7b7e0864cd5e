"""UniPC (arXiv 2302.04867)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pixelwizard.diffusion.solvers.base import Asking, History, Solver, data_weight, log_snr

if TYPE_CHECKING:
    from torch import Tensor


class UniPC(Solver):
    """UniPC of order 2, variant B2, predicting x0.

    Each step first corrects its own starting point with the velocity found there, then predicts
    the next point. Remembers the corrected point and the last one or two predictions of x0.
    """

    def step(
        self, sigmas: Sequence[float], index: int, x: Tensor, velocity: Asking, history: History
    ) -> tuple[Tensor, History]:
        s, t = sigmas[index], sigmas[index + 1]
        x0 = x - s * velocity(x, s)
        if history:
            x = _correct(sigmas, index, x0, *history)
        previous = history[1] if history else None
        direction = x0
        if previous is not None and t > 0:
            rate = (log_snr(sigmas[index - 1]) - log_snr(s)) / (log_snr(t) - log_snr(s))
            direction = x0 + (previous - x0) / (2 * rate)
        latent = t / s * x + data_weight(s, t) * direction
        return latent, (x, x0) if previous is None else (x, x0, previous)


def _correct(
    sigmas: Sequence[float], index: int, x0: Tensor, start: Tensor, m0: Tensor, *older: Tensor
) -> Tensor:
    """The point at ``sigmas[index]``, corrected by the prediction ``x0`` made there.

    ``start`` is the corrected point one step earlier, ``m0`` and ``older`` the predictions of x0
    one and two steps earlier.
    """
    s, t = sigmas[index - 1], sigmas[index]
    change = (x0 - m0) / 2
    if older:
        h = log_snr(t) - log_snr(s)
        rate = (log_snr(sigmas[index - 2]) - log_snr(s)) / h
        first = -1 / h - 1 / math.expm1(-h)  # the two right-hand sides of UniPC's equation (9)
        second = -2 * first / h - 1 / math.expm1(-h)
        weight_older = (first - second) / (1 - rate)
        change = weight_older * (older[0] - m0) / rate + (first - weight_older) * (x0 - m0)
    return t / s * start + data_weight(s, t) * (m0 + change)
