"""First-Block Cache (ParaAttention): skips a step while the first block's output changes little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pixelwizard.config.schema import check_range, convert
from pixelwizard.diffusion.skip.base import Kept, Moment, Skip

if TYPE_CHECKING:
    from torch import Tensor


class FirstBlock(Skip):
    """A step is computed if its first block's change of the tokens differs by over ``threshold``.

    The difference is to the last computed step, relative to its mean size. The first ``first``
    steps and the last are always computed. A skipped step uses the last velocity; the original
    reuses what the other blocks added, which would take gigabytes at 2K.
    """

    def __init__(self, threshold: float = 0.1, first: int = 1) -> None:
        self.threshold, self.first = threshold, first

    def planned(self, steps: int) -> Sequence[bool | None]:
        first = convert(self.first, int, "first")
        check_range("first", first, 1)
        check_range("threshold", convert(self.threshold, float, "threshold"), 0.0)
        return [True if index < first or index == steps - 1 else None for index in range(steps)]

    def asks(self, moment: Moment, kept: Kept) -> bool:
        change = (moment.probe() - kept[1]).abs().mean()
        return bool(change > self.threshold * kept[1].abs().mean())

    def remember(self, moment: Moment, velocity: Tensor, kept: Kept) -> Kept:
        return velocity, moment.probe()
