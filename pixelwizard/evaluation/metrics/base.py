"""A metric: any ``torchmetrics.Metric``, updated once per video.

``update`` gets the chosen frames, [T, ...] as returned by ``look``, and other arguments by
parameter name: ``caption`` (str), ``reference`` or ``target`` (the same frames of the real video
of that name), ``clip`` and ``pair`` (the two files). A metric without ``look`` gets float32
images [T, 3, H, W] in 0..1, like torchmetrics' own metrics. ``compute`` returns the value.
T frames; H, W: pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from pixelwizard.config.output import MetricsSettings
from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.names import AUTO, how_to_get, network_folder, network_of
from pixelwizard.evaluation.networks import LOADED
from pixelwizard.evaluation.score import Unavailable

BT709 = (0.2126, 0.7152, 0.0722)
"""Full-range luma of ITU-R BT.709, 0..255."""
ROWS = 16
"""Rows of a strip: frames are reduced strip by strip, so no whole float copy ever exists."""
Look = Callable[[Tensor, "Tensor | None"], "Tensor | float | None"]
"""Reduces a frame, uint8 [H, W, 3], given the chosen frame before it; None keeps nothing.

It must not change its arguments: two clips are reduced at the same time.
"""


@dataclass(frozen=True)
class Sampling:
    """Which frames: the ``first`` ones, ``uniform`` over the clip (ends included), ``pairs`` of
    neighbours spread over it, or ``all``; of a clip with fewer frames all are taken.

    A clip needs at least ``least`` frames; samplings that differ in this alone are equal. With a
    ``side`` every chosen frame is cut into adjacent squares of that many pixels, and ``look`` gets
    [P, side, side, 3], at most ``patches`` of them: each frame those that follow the previous
    frame's, row by row and round again.
    """

    rule: str
    count: int = 0
    least: int = field(default=1, compare=False)
    side: int = 0
    patches: int = 0

    def numbers(self, frames: int) -> list[int]:
        """The chosen frames of a clip that has at least ``least``."""
        if self.rule == "all":
            return list(range(frames))
        if self.rule == "first":
            return list(range(min(self.count, frames)))
        if self.rule == "pairs":
            firsts = np.linspace(0, frames - 2, min(self.count, frames - 1)).round().astype(int)
            return sorted({number for first in firsts.tolist() for number in (first, first + 1)})
        return np.linspace(0, frames - 1, min(self.count, frames)).round().astype(int).tolist()

    def cut(self, frame_HWC: Tensor, place: int) -> Tensor:
        """What ``look`` gets of the chosen frame number ``place``."""
        if not self.side:
            return frame_HWC
        grid = frame_HWC.unfold(0, self.side, self.side).unfold(1, self.side, self.side)
        every, start = grid.shape[0] * grid.shape[1], place * self.patches
        chosen = [(start + i) % every for i in range(min(self.patches, every))]
        cells = [grid[divmod(number, grid.shape[1])] for number in chosen]
        return torch.stack(cells).permute(0, 2, 3, 1)

    def __str__(self) -> str:
        """As recipes write it."""
        names = {"all": "all", "first": f"{self.count}f", "uniform": f"{self.count}f-uniform"}
        names["pairs"] = f"{self.count}pairs-uniform"
        return names[self.rule] + (f"/{self.patches}x{self.side}px" if self.side else "")


@dataclass(frozen=True)
class Given:
    """What an evaluation has for its metrics: the videos, the real ones, those of a video's
    name, size and length by its id, networks by request."""

    settings: MetricsSettings
    device: torch.device
    clips: Sequence[Clip]
    reference: Sequence[Clip] = ()
    pairs: Mapping[str, Clip] = field(default_factory=dict)
    show: Callable[[str, str], None] = lambda what, which: None
    networks: dict[str, Any] = field(default_factory=dict)

    def network(self, kind: str) -> Any:
        """The network of ``metrics.KIND``, loaded once.

        Raises Unavailable if none is named, ConfigError if the named one cannot be loaded.
        """
        if getattr(self.settings, kind) is None:
            raise Unavailable(f"metrics.{kind} names no network; {how_to_get(AUTO[kind])}")
        if kind not in self.networks:
            facts = network_of(self.settings, kind)
            folder = network_folder(facts, self.settings)
            self.networks[kind] = LOADED[kind](facts, folder, self.device)
        return self.networks[kind]

    def need_one_size(self) -> None:
        """Raises Unavailable for videos of several sizes."""
        if len(sizes := sorted({clip.size for clip in self.clips})) > 1:
            shown = ", ".join(f"{width}x{height}" for width, height in sizes)
            raise Unavailable(f"the videos have several sizes ({shown}); score each in a folder")

    def need_side(self, side: int) -> None:
        """Raises Unavailable for videos that are not as large as a network's input."""
        if min(pixels for clip in [*self.clips, *self.reference] for pixels in clip.size) < side:
            raise Unavailable(f"a video is smaller than {side} pixels")

    def need_one_rate(self) -> None:
        """Raises Unavailable for videos of several frame rates."""
        if len(rates := sorted({round(clip.fps, 2) for clip in self.clips})) > 1:
            shown = ", ".join(f"{rate:g}" for rate in rates)
            raise Unavailable(
                f"the videos have several frame rates ({shown} per second), which change what moves"
                " from frame to frame; score each in a folder"
            )


def as_image(frame_HWC: Tensor, before: Tensor | None = None) -> Tensor:
    """A uint8 frame -> float32 [3, H, W] in 0..1."""
    return frame_HWC.permute(2, 0, 1).float() / 255


def luma(frame_HWC: Tensor, weights: Sequence[float] = BT709) -> Tensor:
    """The weighted sum of a uint8 frame's channels -> float32 [H, W]."""
    factors, out = torch.tensor(weights), torch.empty(frame_HWC.shape[:2])
    for top in range(0, len(out), ROWS):
        strip = frame_HWC[top : top + ROWS].float()
        torch.matmul(strip, factors, out=out[top : top + ROWS])
    return out


class VideoMetric(Metric):
    """A metric with all optional attributes; a plain ``Metric`` has these defaults.

    ``sampling`` chooses the frames, and ``pooled`` reduces their numbers to one value. With
    ``per_video`` the value of a set is the mean of its videos' values, with an interval. Without,
    ``compute`` is called once; it may return [value, low, high] and set ``pseudo_values`` [V], each
    video's share. Their mean is the value, and their deviation is used like that of videos' values
    (Tukey's jackknife). ``temporal`` metrics are not computed for videos of several frame rates.
    ``convention`` is its part of a recipe, ``{n}`` the number of videos.
    """

    full_state_update = False
    higher_is_better = True
    sampling = Sampling("uniform", 16)
    per_video = True
    temporal = False
    convention = ""
    look: Look = staticmethod(as_image)
    pooled: Callable[[Tensor], Tensor] = staticmethod(torch.mean)
    values: list[Tensor]
    pseudo_values: Tensor | None = None

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        self.warnings: list[str] = []
        self.add_state("values", default=[], dist_reduce_fx="cat")

    def prepare(self, given: Given) -> None:
        """Load what it needs. Raises Unavailable where these videos cannot be scored."""

    def update(self, seen_T: Tensor) -> None:
        """Take the numbers of a video's frames: pooled they are its value."""
        self.values.append(self.pooled(seen_T))

    def compute(self) -> Tensor:
        """The mean of the videos' values."""
        return torch.stack(self.values).mean()


def completed(metric: Metric) -> Any:
    """A metric, completed by the defaults of VideoMetric."""
    names = ("sampling", "per_video", "look", "temporal", "convention", "pseudo_values")
    known = {name: getattr(VideoMetric, name) for name in names}
    for name, value in {**known, "warnings": [], "prepare": lambda given: None}.items():
        if not hasattr(metric, name):
            setattr(metric, name, value)
    return metric
