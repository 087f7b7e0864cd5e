"""Classifier-free guidance around a velocity."""

from __future__ import annotations

from torch import Tensor

from pixelwizard.diffusion.schedules import Step
from pixelwizard.diffusion.solvers import Velocity


def guided(conditional: Velocity, unconditional: Velocity, scale: float) -> Velocity:
    """u + scale (c - u) on the schedule's guided steps, c alone on the others."""

    def velocity(x: Tensor, step: Step) -> Tensor:
        c = conditional(x, step)
        if not step.guided:
            return c
        u = unconditional(x, step)
        return u + scale * (c - u)

    return velocity
