"""Temporal flicker: how much pixels change from one frame to the next.

The mean absolute difference over all pixels and pairs of frames, 0..255, as VBench's temporal
flickering has it before it is turned round. Motion counts too: compare videos of the same prompts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelwizard.evaluation.clips import Clip, Probe, Sampling, Watcher
from pixelwizard.evaluation.score import VideoMetric


class FrameChanges(Probe):
    """[1, 1]: the mean change over all pairs of frames."""

    sampling = Sampling("all")

    def watch(self, clip: Clip) -> Watcher:
        return _Changes()


class _Changes(Watcher):
    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.values: list[float] = []

    def see(self, frame_HWC: Tensor) -> None:
        if self.last is not None:
            # of unsigned values: the larger minus the smaller
            change = frame_HWC.maximum(self.last) - frame_HWC.minimum(self.last)
            self.values.append(float(change.sum(dtype=torch.int64)) / change.numel())
        self.last = frame_HWC

    def found(self) -> Tensor:
        return torch.tensor([[math.fsum(self.values) / len(self.values)]], dtype=torch.float64)


def flicker() -> VideoMetric:
    """Temporal flicker; less is steadier."""
    probe = FrameChanges()
    recipe = f"flicker/mae255/{probe.sampling}/n={{n}}"
    return VideoMetric("flicker", probe, recipe, dim=1, higher=False)
