"""Classifier-free guidance around a velocity."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from pixelwizard.diffusion.schedules import Step
from pixelwizard.diffusion.solvers import Velocity


class Halves:
    """Two ranks that run one of the two passes each; ``sent`` counts the bytes of this one."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.index = group, group.rank()
        self.sent = 0

    def both(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions of the first and of the second half, from the one made here."""
        first, second = torch.empty_like(own), torch.empty_like(own)
        dist.all_gather([first, second], own.contiguous(), self.group)
        self.sent += own.nbytes
        return first, second


def guided(
    conditional: Velocity, unconditional: Velocity, scale: float, halves: Halves | None = None
) -> Velocity:
    """u + scale (c - u) on the schedule's guided steps, c alone on the others.

    With ``halves`` the first makes c and the second u; steps that are not guided are made by both.
    """

    def velocity(x: Tensor, step: Step) -> Tensor:
        if not step.guided:
            return conditional(x, step)
        if halves is None:
            c, u = conditional(x, step), unconditional(x, step)
        else:
            c, u = halves.both((conditional, unconditional)[halves.index](x, step))
        return u + scale * (c - u)

    return velocity
