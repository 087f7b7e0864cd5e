"""Written videos as streams of frames: which of them are looked at, and by whom.

A clip is decoded once for everything that looks at it, one uint8 frame at a time.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pixelwizard.evaluation.ffmpeg import described
from pixelwizard.io.video import VideoError, probe, read_frames

AT_ONCE = 2
"""Clips that are looked at together."""


@dataclass(frozen=True)
class Clip:
    """A video file that can be read: its size in pixels and its number of frames."""

    path: Path
    width: int
    height: int
    frames: int

    @property
    def id(self) -> str:
        """The name that captions and references know it by."""
        return self.path.stem


@dataclass(frozen=True)
class Sampling:
    """Which frames: the ``first`` ones, ``uniform`` over the clip (ends included), or ``all``."""

    rule: str
    count: int = 0

    def numbers(self, frames: int) -> list[int]:
        """The chosen frames of a clip that has at least ``count``."""
        if self.rule == "all":
            return list(range(frames))
        if self.rule == "first":
            return list(range(self.count))
        return np.linspace(0, frames - 1, self.count).round().astype(int).tolist()

    def __str__(self) -> str:
        """As recipes write it."""
        names = {"all": "all", "first": f"{self.count}f", "uniform": f"{self.count}f-uniform"}
        return names[self.rule]


class Watcher(ABC):
    """Sees the chosen frames of one clip, then says what it found."""

    @abstractmethod
    def see(self, frame_HWC: Tensor) -> None:
        """The next chosen frame, uint8 RGB."""

    @abstractmethod
    def found(self) -> Tensor:
        """[M, D]: M samples of D values each."""


class Probe(ABC):
    """Makes a watcher for each clip; the frames that it wants are chosen by ``sampling``."""

    sampling: Sampling

    @abstractmethod
    def watch(self, clip: Clip) -> Watcher:
        """A watcher for one clip."""


def inspect(path: Path, least: int = 0) -> Clip:
    """Size and number of frames of a video. Raises VideoError if it is none or has too few."""
    info = probe(path)
    said = described(
        ["-i", str(path), "-map", "0:v:0", "-c", "copy", "-f", "null", "-"],
        f"{path.name} cannot be read",
    )
    counts = re.findall(r"frame=\s*(\d+)", said)
    frames = int(counts[-1]) if counts else 0
    if frames < least:
        raise VideoError(f"it has {frames} frames, and at least {least} are needed")
    return Clip(path, info.width, info.height, frames)


def look(clip: Clip, probes: Sequence[Probe]) -> dict[Probe, Tensor]:
    """What every probe finds in a clip, decoded once and no further than needed.

    Raises VideoError if the file ends early or is damaged.
    """
    watchers = {each: each.watch(clip) for each in probes}
    wanted: dict[int, list[Watcher]] = {}
    for each, watcher in watchers.items():
        for number in each.sampling.numbers(clip.frames):
            wanted.setdefault(number, []).append(watcher)
    last = max(wanted, default=-1)
    stream = cast("Generator[np.ndarray, None, None]", read_frames(clip.path))
    number = -1
    try:
        for number, frame in enumerate(stream):
            if number in wanted:
                seen = torch.from_numpy(frame.copy())  # the stream's own memory is read-only
                for watcher in wanted[number]:
                    watcher.see(seen)
            if number == last:
                break
    finally:
        stream.close()
    if number < last:
        raise VideoError(f"{clip.path.name} ends after {number + 1} of {clip.frames} frames")
    return {each: watcher.found() for each, watcher in watchers.items()}


Found = Callable[[], dict[Probe, Tensor]]
"""Waits for what every probe finds in a clip; raises VideoError if the file is damaged."""


def look_at_all(clips: Sequence[Clip], probes: Sequence[Probe]) -> Iterator[tuple[Clip, Found]]:
    """Every clip in turn, with what is found in it; the next one is looked at meanwhile.

    The cores are divided between the clips: the networks' layers on small frames gain less from a
    second thread than a second clip does.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // AT_ONCE))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = deque((clip, pool.submit(look, clip, probes)) for clip in clips)
        try:
            while waiting:
                clip, looked = waiting.popleft()
                yield clip, looked.result
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
