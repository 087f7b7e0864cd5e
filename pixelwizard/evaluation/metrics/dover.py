"""DOVER: the quality of a video as people rate it, from its technical and its aesthetic side.

Wu et al., arXiv 2211.04894, with the weights that ``metrics.dover`` names; 0..100 as in the file
that its own program writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, tensor

from pixelwizard.evaluation.dover import CLIPS, FRAMES, SIDE, aesthetic_frames, technical_frames
from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric
from pixelwizard.evaluation.score import Unavailable


@dataclass(frozen=True)
class _Views(Sampling):
    """The frames of both views."""

    def numbers(self, frames: int) -> list[int]:
        return sorted({*technical_frames(frames), *aesthetic_frames(frames)})

    def __str__(self) -> str:
        return f"{CLIPS}x{FRAMES}f+{FRAMES}f-middle"


class DOVER(VideoMetric):
    """The overall quality, or the technical or aesthetic one; more is better."""

    sampling = _Views("views")

    def __init__(self, part: str = "overall") -> None:
        super().__init__()
        self.part = part

    def prepare(self, given: Given) -> None:
        """Load the network. Raises Unavailable for videos that have no room for the fragments."""
        if min(pixels for clip in given.clips for pixels in clip.size) < SIDE:
            raise Unavailable(f"a video is smaller than {SIDE} pixels")
        self.network = given.network("dover")
        self.look = self.network.views
        self.convention = f"{self.network.label}/{self.part}/{self.sampling}/n={{n}}"

    def update(self, views_T2SSC: Tensor, clip: Clip) -> None:  # type: ignore[override]
        """Take both views of every frame of a video, uint8."""
        super().update(tensor([self.network.rate(views_T2SSC, clip)[self.part]]).double())
