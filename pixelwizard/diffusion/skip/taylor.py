"""First-order TaylorSeer (arXiv 2503.06923), applied to the velocity over sigma."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pixelwizard.config.schema import check_range, convert
from pixelwizard.diffusion.skip.base import Kept, Moment, Skip

if TYPE_CHECKING:
    from torch import Tensor


class Taylor(Skip):
    """The ``first`` steps are computed, then every ``every``-th.

    A skipped step extrapolates the last two velocities of the network linearly.
    """

    def __init__(self, every: int = 2, first: int = 3) -> None:
        self.every, self.first = every, first

    def planned(self, steps: int) -> Sequence[bool | None]:
        every, first = convert(self.every, int, "every"), convert(self.first, int, "first")
        check_range("every", every, 1)
        check_range("first", first, 1)
        return [index < first or (index - first + 1) % every == 0 for index in range(steps)]

    def remember(self, moment: Moment, velocity: Tensor, kept: Kept) -> Kept:
        return (velocity, velocity.new_tensor(moment.sigma), *kept[:2])

    def velocity(self, moment: Moment, sigma: float, kept: Kept) -> Tensor:
        last, place, *before = kept
        if not before:
            return last
        earlier, start = before
        return last + (sigma - place) / (place - start) * (last - earlier)
