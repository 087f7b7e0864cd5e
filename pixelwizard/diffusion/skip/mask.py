"""An explicit list of the steps to compute (the step mask of cache-dit)."""

from __future__ import annotations

from collections.abc import Sequence

from pixelwizard.diffusion.skip.base import Skip


class Mask(Skip):
    """``pattern`` has a 1 for every computed step and a 0 for every skipped one.

    A skipped step uses the last velocity.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = str(pattern)

    def planned(self, steps: int) -> Sequence[bool | None]:
        pattern = self.pattern
        if len(pattern) != steps or not set(pattern) <= {"0", "1"} or pattern[0] != "1":
            nearest = "1" + "".join("01"[mark != "0"] for mark in pattern[1:steps])
            raise ValueError(
                f"pattern={pattern} must have a 1 (compute) or a 0 (skip) for each of the {steps}"
                f" steps, and begin with 1; nearest: {nearest.ljust(steps, '1')}"
            )
        return [mark == "1" for mark in pattern]
