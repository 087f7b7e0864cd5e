"""Where the time of a training goes: every moment counts as one activity."""

from __future__ import annotations

import time
from collections import defaultdict

OVERHEADS = ("data", "logging", "checkpoints")
"""What a training loses time to; held-out losses and samples are wanted for themselves."""


class Stopwatch:
    """Seconds by activity; ``enter`` ends one and begins another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._activity: str | None = None
        self._since = 0.0

    def enter(self, activity: str | None) -> str | None:
        """Count the time from now on for ``activity`` (or None); returns the previous one."""
        now = time.monotonic()
        if self._activity is not None:
            self.seconds[self._activity] += now - self._since
        before, self._activity, self._since = self._activity, activity, now
        return before

    @property
    def total(self) -> float:
        """The seconds of all activities."""
        return sum(self.seconds.values())

    def split(self) -> str:
        """Every activity's share, and that of all overheads in steps and overheads together."""
        shares = ", ".join(
            f"{name} {100 * seconds / max(self.total, 1e-9):.1f} %"
            for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1])
        )
        return f"{shares}; data, logging and checkpoints take {100 * self.lost:.1f} % of step time"

    @property
    def lost(self) -> float:
        """The overheads as a share of the time of the steps."""
        return sum(self.seconds[name] for name in OVERHEADS) / max(self.seconds["step"], 1e-9)
