"""MeanCache (arXiv 2601.19961): the mean velocity of earlier steps corrects the last one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pixelwizard.config.schema import check_range, convert
from pixelwizard.diffusion.skip.base import Kept, Moment
from pixelwizard.diffusion.skip.mask import Mask

if TYPE_CHECKING:
    from torch import Tensor


class Mean(Mask):
    """Like ``mask``, but a skipped step follows the slope of the velocity.

    From the start of the ``over``-th last step that asked to the present, the mean velocity of the
    way differs from the velocity at that start by half the slope; a skipped step adds as much.
    """

    def __init__(self, pattern: str, over: int = 2) -> None:
        super().__init__(pattern)
        self.over = over

    def planned(self, steps: int) -> Sequence[bool | None]:
        check_range("over", convert(self.over, int, "over"), 1)
        return super().planned(steps)

    def remember(self, moment: Moment, velocity: Tensor, kept: Kept) -> Kept:
        place = velocity.new_tensor(moment.sigma)
        return (velocity, moment.latent, place, *kept[: 3 * (self.over - 1)])

    def velocity(self, moment: Moment, sigma: float, kept: Kept) -> Tensor:
        first, start, place = kept[-3:]
        way = moment.sigma - place
        half_slope = ((moment.latent - start) / way - first) / way
        return kept[0] + half_slope * (moment.sigmas[moment.index + 1] - moment.sigma)
