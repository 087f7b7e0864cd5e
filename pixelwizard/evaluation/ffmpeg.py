"""Metrics that are figures of ffmpeg's filters, of a video or of a pair of videos."""

from __future__ import annotations

import math
import re
import signal
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import torch

from pixelwizard.evaluation.files import Clip
from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric
from pixelwizard.evaluation.score import NO_PAIRS, Unavailable
from pixelwizard.io.process import ProcessLost
from pixelwizard.io.video import VideoError

LINES = 400
"""How many of the last lines of ffmpeg's text are kept."""


class OfFilter(VideoMetric):
    """The mean of what a filter says of 16 frames, on the luma as it is stored.

    ``filter`` is what ffmpeg must have, and ``key`` what it calls its figure of a frame.
    """

    higher_is_better = False
    filter = key = ""

    def prepare(self, given: Given) -> None:
        """Raises Unavailable where ffmpeg lacks the filter."""
        if not has_filter(self.filter):
            raise Unavailable(f"this ffmpeg was built without {self.filter}")
        self.convention = f"ffmpeg-{type(self).__name__.lower()}/{self.sampling}/n={{n}}"

    def figures(self, clip: Clip, chosen: str) -> list[float]:
        """A figure of each frame; ``chosen`` is the filter that drops the others."""
        return metadata(clip, f"{chosen},{self.filter}", self.key)

    def update(self, clip: Clip) -> None:  # type: ignore[override]
        """Take a video. Raises Unavailable where the filter has a figure of no frame."""
        found = self.figures(clip, chosen(self.sampling, clip.frames))
        figures = torch.tensor(found, dtype=torch.float64)
        figures = figures[figures.isfinite()]  # blurdetect says nan of a frame without edges
        if not len(figures):
            raise Unavailable(f"{self.filter} finds nothing to measure in its frames")
        super().update(figures)


class Paired(VideoMetric):
    """A metric of a video against the real video of its name, size and length.

    Both are compared as 8-bit yuv420p, frame by frame; their timestamps are ignored. ``filter`` is
    ffmpeg's, ``pattern`` finds the value in what it says; ``most`` bounds the value.
    """

    convention = "ffmpeg-yuv420p/n={n}"
    filter = pattern = ""
    most = math.inf

    def prepare(self, given: Given) -> None:
        """Raises Unavailable where there are no pairs, or where ffmpeg lacks the filter."""
        if not given.reference:
            raise Unavailable("needs reference=DIR")
        if not given.pairs:
            raise Unavailable(NO_PAIRS)
        if not has_filter(self.filter):
            raise Unavailable(f"this ffmpeg was built without {self.filter}")

    def update(self, clip: Clip, pair: Clip) -> None:  # type: ignore[override]
        """Take a video and its pair."""
        value = self.similarity(clip.path, pair.path)
        super().update(torch.tensor([value], dtype=torch.float64))

    @classmethod
    def similarity(cls, video: Path, reference: Path) -> float:
        """Of a video and one of its size and length. Raises VideoError where one is unreadable."""
        clock = "settb=AVTB,setpts=N/24/TB,format=yuv420p"
        graph = f"[0:v]{clock}[v];[1:v]{clock}[r];[v][r]{cls.filter}=shortest=1"
        said = described(
            ["-i", str(video), "-i", str(reference), "-lavfi", graph, "-f", "null", "-"],
            f"{video.name} cannot be compared with its reference",
        )
        return min(float(re.findall(cls.pattern, said)[-1]), cls.most)


def chosen(sampling: Sampling, frames: int) -> str:
    """The filter that passes the frames of a sampling."""
    return f"select='{'+'.join(f'eq(n,{number})' for number in sampling.numbers(frames))}'"


def metadata(clip: Clip, filters: str, key: str) -> list[float]:
    """What a chain of filters writes under ``lavfi.KEY``, frame by frame. Raises VideoError."""
    graph = f"{filters},metadata=print:key=lavfi.{key}"
    said = described(
        ["-i", str(clip.path), "-an", "-vf", graph, "-f", "null", "-"],
        f"{clip.path.name} cannot be measured",
        lines=10**6,
    )
    return [float(value) for value in re.findall(rf"lavfi\.{key}=(\S+)", said)]


def described(arguments: Sequence[str], what: str, lines: int = LINES) -> str:
    """What ffmpeg says in one call. Raises VideoError, which begins with ``what``, if it fails."""
    done = _called(["-v", "info", *arguments], what)
    said = done.stderr.decode(errors="replace").replace("\r", "\n").splitlines()[-lines:]
    if done.returncode:
        last = [line.strip() for line in said if line.strip()] or [f"code {done.returncode}"]
        raise VideoError(f"{what}: {last[-1]}")
    return "\n".join(said)


@cache
def has_filter(name: str) -> bool:
    """Whether this ffmpeg was built with a filter."""
    listed = _called(["-filters"], "its filters are not known").stdout.decode(errors="replace")
    return any(line.split()[1:2] == [name] for line in listed.splitlines())


def _called(arguments: Sequence[str], what: str) -> subprocess.CompletedProcess[bytes]:
    """One call of ffmpeg. Raises ProcessLost if there is none or a signal ended it."""
    try:
        tool = imageio_ffmpeg.get_ffmpeg_exe()  # tries whether it runs
    except RuntimeError as error:
        raise ProcessLost(f"ffmpeg cannot be started: {error}") from error
    done = subprocess.run(
        [tool, "-hide_banner", "-nostdin", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
    )
    if done.returncode < 0:
        raise ProcessLost(f"{signal.Signals(-done.returncode).name} ended ffmpeg: {what}")
    return done
