"""Classifier-free guidance around a velocity."""

from __future__ import annotations

from torch import Tensor

from pixelwizard.diffusion.sampling import Velocity
from pixelwizard.diffusion.schedules import Step
from pixelwizard.parallel.guidance import CFGParallel


def guided(
    conditional: Velocity, unconditional: Velocity, scale: float, cfg: CFGParallel | None = None
) -> Velocity:
    """u + scale (c - u) on the schedule's guided steps, c alone on the others.

    With ``cfg`` the first makes c and the second u; steps that are not guided are made by both.
    """

    def velocity(x: Tensor, step: Step) -> Tensor:
        if not step.guided:
            return conditional(x, step)
        if cfg is None:
            c, u = conditional(x, step), unconditional(x, step)
        else:
            c, u = cfg.both((conditional, unconditional)[cfg.index](x, step))
        return u + scale * (c - u)

    return velocity
