"""The settings of trainings that are compared in few passes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import List, Literal, Optional

from pixelwizard.config.schema import ConfigError, setting, show

MOST_CLIPS = 100
"""Held-out clips that may be sampled; real ones for the distance of sets come after them."""
FEWEST_FRAMES = 17
"""Of a clip that the network of ``tiny-video`` sees: it takes 16."""
ARM_BUDGETS = ("samples", "work")
"""The budgets of arms."""


@dataclass(frozen=True)
class ComparisonSettings:
    """A training as one arm of a comparison of objectives in few passes; without ``budget`` it is
    none.

    ``samples``  it sees as many clips as every other arm: ``trainer.max_steps`` steps
    ``work``     it makes as many passes as flow matching does in these steps, a pass with gradient
                 counting as three
    ``start``    it makes the network that all arms start from: flow matching for ``start_steps``
                 steps, after which every step size is answered as 0 is

    ``start`` is the folder of that training (None: ``start`` beside the arm's own folder). Guidance
    is trained into every arm at the scale of the schedule, so an arm is sampled without.

    Each of ``clips`` held-out clips of the shapes is sampled with every number of ``passes``, and
    decoded for those of ``decoded``. ``against`` is the arm that differences are to.
    """

    budget: Optional[Literal["start", "samples", "work"]] = None
    start: Optional[str] = setting(None, path=True)
    start_steps: int = setting(300, low=1)
    clips: int = setting(4, low=2, high=MOST_CLIPS, incidental=True)
    passes: List[int] = setting([1, 2, 4, 8, 16], low=1, high=1000, incidental=True)
    decoded: List[int] = setting([4], incidental=True)
    against: str = setting("shortcut", incidental=True)

    def check(self, key: str) -> None:
        """Passes, those decoded among them, nothing without a budget; raises ConfigError."""
        if self.budget is None:
            for field in fields(self):
                value = getattr(self, field.name)
                if value != getattr(ComparisonSettings(), field.name):
                    raise ConfigError(
                        f"{key}.{field.name}={show(value)} has no part without {key}.budget; set"
                        f" {key}.budget=samples or leave it out"
                    )
        if not self.passes:
            raise ConfigError(f"{key}.passes=[] must name at least one number, like [1, 2, 4]")
        for count in self.decoded:
            if count not in self.passes:
                near = min(self.passes, key=lambda known: abs(known - count))
                raise ConfigError(
                    f"{key}.decoded={self.decoded} must be among {key}.passes={self.passes};"
                    f" nearest: {near}"
                )
