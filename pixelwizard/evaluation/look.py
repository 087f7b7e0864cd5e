"""Clips reduced as their metrics ask: each file is decoded once, frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.metrics.base import Look, Sampling, VideoMetric
from pixelwizard.evaluation.score import Unavailable
from pixelwizard.io.reading import read_frames
from pixelwizard.io.video import VideoError

AT_ONCE = 2
"""Clips that are looked at together."""


class TooShort(Unavailable):
    """A clip has fewer frames than a metric needs."""

    def __init__(self, clip: Clip, least: int) -> None:
        frames = "1 frame" if clip.frames == 1 else f"{clip.frames} frames"
        super().__init__(f"{clip.path.name} has {frames}, and at least {least} are needed")


class _View:
    """One reduction of a clip and its results; metrics with the same reduction share it."""

    def __init__(self, sampling: Sampling, look: Look, frames: int) -> None:
        self.sampling, self.look = sampling, look
        self.numbers = {number: place for place, number in enumerate(sampling.numbers(frames))}
        self.before: Tensor | None = None
        self.kept: list[Tensor | float] = []
        self.error: Exception | None = None

    def see(self, number: int, frame_HWC: Tensor) -> None:
        """The next chosen frame. An error of the look ends it, and nothing else."""
        place = self.numbers[number]
        apart = self.sampling.rule == "pairs" and number - 1 not in self.numbers
        seen = self.sampling.cut(frame_HWC, place)
        try:
            kept = None if self.error else self.look(seen, None if apart else self.before)
            self.kept += [] if kept is None else [kept]
        except Exception as error:
            self.error = error
        self.before = seen

    def seen(self) -> Tensor | Exception:
        """[T, ...], numbers as float64; or the error."""
        if not self.kept and not self.error:
            return Unavailable("nothing in its frames can be measured")
        try:
            if self.error or torch.is_tensor(self.kept[0]):
                return self.error or torch.stack(cast("list[Tensor]", self.kept))
            return torch.tensor(self.kept, dtype=torch.float64)
        except Exception as error:
            return error


def look(clip: Clip, metrics: Sequence[VideoMetric]) -> list[Tensor | Exception]:
    """The frames that every metric needs of a clip, decoded once and no further than needed.

    Raises VideoError if the file ends early or is damaged. What a look raises stands in its place,
    and TooShort where the clip has too few frames.
    """
    views: list[_View] = []
    found: list[_View | TooShort] = []
    for metric in metrics:
        if clip.frames < metric.sampling.least:
            found.append(TooShort(clip, metric.sampling.least))
            continue
        alike = (v for v in views if v.sampling == metric.sampling and v.look == metric.look)
        view = next(alike, None)
        if view is None:
            view = _View(metric.sampling, metric.look, clip.frames)
            views.append(view)
        found.append(view)
    last = max((number for view in views for number in view.numbers), default=-1)
    stream = cast("Generator[np.ndarray, None, None]", read_frames(clip.path))
    number = -1
    try:
        while number < last and (frame := next(stream, None)) is not None:
            number += 1
            if watching := [view for view in views if number in view.numbers]:
                seen = torch.from_numpy(frame.copy())  # the stream's own memory is read-only
                for view in watching:
                    view.see(number, seen)
    finally:
        stream.close()
    if number < last:
        raise VideoError(f"{clip.path.name} ends after {number + 1} of {clip.frames} frames")
    return [view.seen() if isinstance(view, _View) else view for view in found]


def look_at_all(
    clips: Sequence[Clip], metrics: Sequence[VideoMetric]
) -> Iterator[tuple[Clip, Callable[[], list[Tensor | Exception]]]]:
    """Every clip in turn with its reductions; the next two are decoded meanwhile.

    The cores are divided between the clips: layers on small frames gain less from a second thread
    than a second clip does.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // AT_ONCE))
    left = iter(clips)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            waiting = deque((c, pool.submit(look, c, metrics)) for c in islice(left, AT_ONCE))
            while waiting:
                clip, looked = waiting.popleft()
                yield clip, looked.result
                waiting.extend((c, pool.submit(look, c, metrics)) for c in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def raised(seen: Tensor | Exception) -> Tensor:
    """What was seen; raises what stands in its place."""
    if isinstance(seen, Exception):
        raise seen
    return seen
