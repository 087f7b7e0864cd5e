"""CLIP's view of a video: how well its frames fit the caption, how alike they are.

The CLIP score is torchmetrics' ``CLIPScore`` (max(100 cos, 0), arXiv 2104.08718), averaged over 8
frames. Frame consistency is the mean cosine of each frame with the one before and with the first,
as VBench's background consistency has it, over the same frames. K frames, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.evaluation.clips import Clip, Probe, Sampling, Watcher
from pixelwizard.evaluation.networks import CLIPNetwork
from pixelwizard.evaluation.score import VideoMetric

FRAMES = 8


class FrameEmbeddings(Probe):
    """The embeddings [K, D] of 8 frames spread over the clip."""

    sampling = Sampling("uniform", FRAMES)

    def __init__(self, network: CLIPNetwork) -> None:
        self.network = network
        self.convention = f"{network.label}/{network.facts.resize}/{self.sampling}"

    def watch(self, clip: Clip) -> Watcher:
        return _Embedded(self.network)


class _Embedded(Watcher):
    def __init__(self, network: CLIPNetwork) -> None:
        self.network = network
        self.frames: list[Tensor] = []

    def see(self, frame_HWC: Tensor) -> None:
        self.frames.append(self.network.fit(frame_HWC))

    def found(self) -> Tensor:
        return self.network.images(torch.cat(self.frames))


class CLIPScore(VideoMetric):
    """How well frames fit the caption of their video, 0..100."""

    probe: FrameEmbeddings
    cut: Tensor

    def __init__(self, probe: FrameEmbeddings) -> None:
        super().__init__("clip", probe, f"clip/{probe.convention}/n={{n}}", dim=1, higher=True)
        self.add_state("cut", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, number: int, found: Tensor, caption: str) -> None:  # type: ignore[override]
        """Take the frames' embeddings [K, D] of video ``number`` and its caption."""
        network = self.probe.network
        cosines = (found * network.texts([caption])).sum(dim=1, keepdim=True)
        super().update(number, (100 * cosines).clamp(min=0).mean(dim=0, keepdim=True))
        self.cut += network.is_cut(caption)

    def value(self, samples_MD: Tensor) -> float:
        """The mean; captions that are longer than the network reads become a warning."""
        tokens = self.probe.network.facts.tokens
        self.warnings = [f"{self.cut} captions were cut after {tokens} tokens"] if self.cut else []
        return super().value(samples_MD)


class FrameConsistency(VideoMetric):
    """How alike frames are to the one before and to the first, -1..1."""

    def __init__(self, probe: FrameEmbeddings) -> None:
        recipe = f"frame-consistency/{probe.convention}/n={{n}}"
        super().__init__("frame-consistency", probe, recipe, dim=1, higher=True)

    def update(self, number: int, found: Tensor) -> None:
        """Take the frames' embeddings [K, D] of video ``number``."""
        before = (found[1:] * found[:-1]).sum(dim=1)
        first = (found[1:] * found[:1]).sum(dim=1)
        super().update(number, ((before + first) / 2).mean().view(1, 1))
