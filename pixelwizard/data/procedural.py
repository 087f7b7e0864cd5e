"""The procedural clips of ``shapes`` as a set of captioned clips."""

from __future__ import annotations

import random

import numpy as np

from pixelwizard.config.geometry import Geometry
from pixelwizard.data import shapes
from pixelwizard.data.examples import Clips, Split


class ShapeClips(Clips):
    """``count`` scenes of a split, from the scene ``first`` on."""

    def __init__(self, split: Split, first: int, count: int) -> None:
        self.split, self.first, self.count = split, first, count
        self.identity = f"shapes {split} from {first}"

    def __len__(self) -> int:
        return self.count

    def captions(self, number: int) -> list[str]:
        return [shapes.caption(self._scene(number))]

    def clip(self, number: int, size: Geometry, draw: random.Random) -> np.ndarray:
        return shapes.render(self._scene(number), size.width, size.height, size.frames)

    def _scene(self, number: int) -> shapes.Scene:
        return shapes.scene(self.first + number, self.split)
