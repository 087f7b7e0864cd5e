"""Real clips of the shapes that no training sees, always the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pixelwizard.config.geometry import Geometry
from pixelwizard.data import shapes

FIRST_SCENE = 5_000_000
"""The scene of the first clip; the trainings' held-out examples start at 0 and 1,000,000."""


@dataclass(frozen=True)
class Clip:
    """One held-out caption and a real scene of it; the number seeds what is generated for it."""

    number: int
    text: str

    @property
    def scene(self) -> shapes.Scene:
        """The real clip."""
        return shapes.scene_for(self.text, FIRST_SCENE + self.number)

    def render(self, size: Geometry) -> np.ndarray:
        """The real clip's frames, uint8 [T, H, W, 3]."""
        return shapes.render(self.scene, size.width, size.height, size.frames)


def clips(count: int) -> list[Clip]:
    """Held-out captions, all different, always in the same order."""
    texts = shapes.prompts("heldout", count, seed=1)
    return [Clip(number, text) for number, text in enumerate(texts)]
