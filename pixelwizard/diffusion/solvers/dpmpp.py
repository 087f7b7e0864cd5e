"""DPM-Solver++ (arXiv 2211.01095)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pixelwizard.diffusion.solvers.base import Asking, History, Solver, data_weight, log_snr

if TYPE_CHECKING:
    from torch import Tensor


class DPMSolverPP(Solver):
    """DPM-Solver++(2M), midpoint, the last step of first order.

    Remembers the previous prediction of x0. Its grid begins at pure noise (Wan2.2
    ``fm_solvers.py``).
    """

    first_sigma = 1.0

    def step(
        self, sigmas: Sequence[float], index: int, x: Tensor, velocity: Asking, history: History
    ) -> tuple[Tensor, History]:
        s, t = sigmas[index], sigmas[index + 1]
        x0 = x - s * velocity(x, s)
        direction = x0
        if history and t > 0:
            (previous,) = history
            ratio = (log_snr(s) - log_snr(sigmas[index - 1])) / (log_snr(t) - log_snr(s))
            direction = x0 + (x0 - previous) / (2 * ratio)
        return t / s * x + data_weight(s, t) * direction, (x0,)
