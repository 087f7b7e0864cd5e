"""No step is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pixelwizard.diffusion.skip.base import Moment, Skip

if TYPE_CHECKING:
    from torch import Tensor


class NoSkip(Skip):
    """Every step asks, and nothing is remembered."""

    def planned(self, steps: int) -> Sequence[bool | None]:
        return [True] * steps

    def remember(
        self, moment: Moment, velocity: Tensor, kept: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        return ()
