"""Video files -> frames: upright, in square pixels, RGB, each once and at its own time.

One reader for training, scores, pages and sheets. Frames are uint8 [H, W, 3]. Times are seconds
from the first frame, by the stream's timestamps, not by the container's duration; inside this
file also seconds of the stream, whose first frame need not be at 0.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from pixelwizard.config.geometry import Geometry
from pixelwizard.io.files import kind_of
from pixelwizard.io.video import VideoError

PASSING = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
PASSING |= {errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.ENOBUFS}
"""Failures of the machine, not of the file."""
PAUSES = (0.2, 1.0)
"""Seconds to wait before a read is tried again."""
EARLIER = (0.0, 2.0, 10.0)
"""Seconds to seek before a moment: transport streams have no index and land between keyframes."""
AFTER_THE_END = 2**48
"""A timestamp later than any frame's."""

T = TypeVar("T")


class ReadFailed(VideoError):
    """The machine could not read the file; another attempt may succeed."""


def comment_of(path: Path) -> str:
    """The comment in the metadata, empty if there is none. Raises VideoError."""
    with explained(path), opened(path) as container:
        found = {name.lower(): text for name, text in container.metadata.items()}
    return found.get("comment", "")


def opened(path: Path) -> InputContainer:
    """An open file; a playlist that calls itself a video opens no connection."""
    local = {"protocol_whitelist": "file"}
    return av.open(f"file:{path}", options=local, metadata_errors="replace")


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream to show. Raises VideoError if there is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        raise VideoError(f"{path.name} holds no video that can be decoded")
    return stream


def tick(timed: VideoStream | av.VideoFrame) -> float:
    """The unit of its timestamps, in seconds."""
    return float(timed.time_base or 0) or 1e-6


def rate(stream: VideoStream) -> float:
    """Frames per second on average, 24 where nothing is said."""
    return float(stream.average_rate or stream.guessed_rate or 24)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors become one sentence that blames the file or the machine."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        failed = ReadFailed if error.errno in PASSING else VideoError
        other = kind_of(path) if path.is_file() and failed is VideoError else None
        why = error.strerror if other is None or other.endswith("video") else f"it is {other}"
        raise failed(f"{path.name} cannot be read as a video: {why}") from error


def patiently(read: Callable[[], T]) -> T:
    """Retry after a pause if the machine failed. Raises ReadFailed if it keeps failing."""
    for pause in PAUSES:
        try:
            return read()
        except ReadFailed:
            time.sleep(pause)
    return read()


def all_ends(path: Path) -> list[float | None]:
    """When every frame ends, by all packets. Raises VideoError for an mp4 that was cut off."""
    with opened(path) as container:
        stream = video_stream(container, path)
        ends = [(_end(p, stream), p.is_discard) for p in container.demux(stream) if p.size]
        if "mp4" in container.format.name and len(ends) < stream.frames:
            raise VideoError(
                f"{path.name} is cut off: it holds {len(ends)} of {stream.frames} frames"
            )
    return [end for end, discarded in ends if not discarded]


def check_whole(path: Path) -> None:
    """Raise VideoError for a Matroska or WebM file that is shorter than its segment (RFC 9559)."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    _, segment, rest = head.partition(SEGMENT)
    if not head.startswith(EBML) or not segment or not rest[:1].strip(b"\0"):
        return
    length = 9 - rest[0].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(rest[:length], "big") & unknown
    whole, there = len(head) - len(rest) + length + size, path.stat().st_size
    if size != unknown and there < whole:
        raise VideoError(f"{path.name} is cut off: it holds {there} of {whole} bytes")


def last_ends(path: Path) -> list[float | None]:
    """When the last frames end, by the packets at the file's end; empty where none is found."""
    with opened(path) as container:
        stream = video_stream(container, path)
        place, ends = AFTER_THE_END, []
        try:
            for _ in range(2):
                container.seek(place, stream=stream)
                packets = container.demux(stream)
                first = next(packets, None)
                if first is None or not first.size:
                    return []
                ends = [_end(first, stream), *(_end(p, stream) for p in packets if p.size)]
                if first.is_keyframe or first.pts is None:
                    break  # else frames that are shown later may lie before
                place = first.pts - int(EARLIER[1] / tick(stream))
        except av.FFmpegError:
            return []
    return ends


def _end(packet: av.Packet, stream: VideoStream) -> float | None:
    """When a packet's frame ends, in seconds; None if it has no timestamp."""
    start = packet.dts if packet.pts is None else packet.pts
    length = (packet.duration or 0) * tick(stream) or 1 / rate(stream)
    return None if start is None else start * tick(stream) + length


EBML, SEGMENT, HEAD_BYTES = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", 4096
PIXELS = 2
"""To be raised when the same file gives other pixels: what was made of the old ones is not used."""
ENLARGING = {"bicubic": 0x4, "lanczos": 0x200}
"""Filters of swscale for frames that become larger."""
AREA, FULL_CHROMA, FULL_CHROMA_IN, ACCURATE = 0x20, 0x2000, 0x4000, 0x40000
EXACT = FULL_CHROMA | FULL_CHROMA_IN | ACCURATE
"""Without these flags swscale makes 253 of white and 126 of 128; PyAV 17 has no names for them."""
HDR = {16: "PQ", 18: "HLG"}
"""Transfer characteristics (ITU-T H.273) that need tone mapping."""
UNTAGGED, BT709, HD = 2, "ITU709", 720
"""A stream without a matrix tag has that of bt709 from 720 lines on, below that of bt601."""
THREADS = 1
"""Of a decoder, a scaler, a filter: a process forked later would wait for the others for ever."""


@dataclass(frozen=True)
class VideoInfo:
    """Size as shown, average frames per second, seconds until the last frame ends.

    ``frames`` is 0 unless they were counted; ``sound`` is the codec of the sound, "" without any;
    the first frame comes ``delay`` seconds after the file begins, perhaps with sound.
    """

    width: int
    height: int
    fps: float
    seconds: float
    frames: int = 0
    sound: str = ""
    delay: float = 0.0


def probe(path: Path, count: bool = False) -> VideoInfo:
    """Size, rate and length of a video; with ``count`` the number of frames, by all its packets.

    Raises VideoError if it is not a video, an HDR one, or one that was cut off.
    """

    def read() -> VideoInfo:
        with Video(path) as video, explained(path):
            check_whole(path)
            ends = [] if count else last_ends(path)
            ends = ends or all_ends(path)
            known = [end for end in ends if end is not None]
            seconds = max(known) - video.zero if known else len(ends) / video.fps
            frames = len(ends) if count else 0
            shown = video.width, video.height, video.fps
            return VideoInfo(*shown, seconds, frames, video.sound, video.delay)

    return patiently(read)


def read_frames(path: Path, width: int | None = None) -> Iterator[np.ndarray]:
    """Every frame once, scaled to ``width`` if given.

    Raises VideoError if the file cannot be read to its end.
    """
    with Video(path) as video:
        for _, frame in video.frames():
            yield video.picture(frame, *video.scaled(width))


def read_stills(path: Path, count: int, width: int) -> list[np.ndarray]:
    """``count`` frames, evenly from first to last, scaled to ``width``. Raises VideoError."""
    info = probe(path)
    times = np.linspace(0.0, max(0.0, info.seconds - 1 / info.fps), count).tolist()
    with Video(path) as video:
        return [video.picture(frame, *video.scaled(width)) for frame in video.at(times)]


def read_clip(path: Path, size: Geometry, fps: float, start: float = 0.0) -> np.ndarray:
    """``size.frames`` frames at ``fps`` from ``start`` seconds on, uint8 [T, H, W, 3].

    Each is the frame nearest to its time. Frames are scaled to cover the size, and what juts out is
    cut off evenly. Raises VideoError if the file ends before or cannot be read.
    """
    times = [start + number / fps for number in range(size.frames)]
    shown = size.width, size.height
    return patiently(lambda: np.stack(list(covering(path, shown, shown, times))))


class Video:
    """An open video whose first frame was decoded; a context.

    ``width`` and ``height`` are those shown, ``fps`` is the average rate, ``zero`` the time of the
    first frame in the stream. Raises VideoError if it holds no video, or an HDR one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            self._begin()
        first, self.fps = self._first, rate(self._stream)
        if first.color_trc in HDR:
            self._container.close()
            raise VideoError(
                f"{path.name} is HDR ({HDR[first.color_trc]}); convert it to SDR (bt709) first"
            )
        turn: Any = first.side_data.get("DISPLAYMATRIX")
        matrix = (1, 0, 0, 0, 1) if turn is None else memoryview(bytes(turn)).cast("i")
        self._matrix = (matrix[0], matrix[1], matrix[3], matrix[4])
        self._turned = abs(matrix[1]) > abs(matrix[0])
        wide = max(1, round(first.width * (self._stream.sample_aspect_ratio or 1)))
        self.width, self.height = (first.height, wide) if self._turned else (wide, first.height)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def scaled(self, width: int | None) -> tuple[int, int]:
        """Width and height at another width; the height becomes even."""
        if width is None or width == self.width:
            return self.width, self.height
        return width, max(2, round(self.height * width / self.width / 2) * 2)

    def frames(self, start: float = 0.0) -> Iterator[tuple[float, av.VideoFrame]]:
        """The frames with their times, from a keyframe at or before ``start`` on."""
        with explained(self.path):
            found = self._sought(start) or self._rewound()
            moment = -1 / self.fps
            for frame in found if not self._first.interlaced_frame else self._deinterlaced(found):
                moment = moment + 1 / self.fps if frame.time is None else frame.time - self.zero
                if frame.is_corrupt:
                    raise VideoError(f"{self.path.name} is damaged after {moment:.2f} s")
                yield moment, frame

    def at(self, times: Sequence[float]) -> Iterator[av.VideoFrame]:
        """The frames nearest to rising ``times``. Raises VideoError if the video ends before."""
        frames = chain(self.frames(times[0]), [None])
        before, after = None, next(frames)
        for done, moment in enumerate(times):
            while after is not None and after[0] < moment:
                before, after = after, next(frames)
            near = [one for one in (before, after) if one is not None]
            if not near or (after is None and moment > near[0][0] + self._duration(near[0][1])):
                raise VideoError(f"{self.path.name} ends after {done} of {len(times)} frames")
            yield min(near, key=lambda one: abs(one[0] - moment))[1]

    def picture(
        self, frame: av.VideoFrame, width: int, height: int, scaling: int = AREA
    ) -> np.ndarray:
        """A frame as uint8 [height, width, 3], scaled by a filter of swscale."""
        coded = (height, width) if self._turned else (width, height)
        matrix = BT709 if frame.colorspace == UNTAGGED and frame.height >= HD else None
        how: Any = {"interpolation": scaling | EXACT, "threads": THREADS}
        shown = frame.reformat(*coded, "rgb24", matrix, **how)
        a, b, c, d = self._matrix
        pixels = shown.to_ndarray()
        pixels = pixels.swapaxes(0, 1) if self._turned else pixels
        flip_x, flip_y = (c < 0, b < 0) if self._turned else (a < 0, d < 0)
        return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])

    @property
    def sound(self) -> str:
        """The codec of the sound, "" without any."""
        stream = self._container.streams.best("audio")
        return "" if stream is None else stream.codec.canonical_name

    @property
    def delay(self) -> float:
        """Seconds from where the file begins to the first frame."""
        return max(0.0, self.zero - (self._container.start_time or 0) / av.time_base)

    def _begin(self) -> None:
        """Open the file and decode the first frame, whose time is zero."""
        self._container = opened(self.path)
        self._stream = video_stream(self._container, self.path)
        self._stream.codec_context.thread_count = THREADS
        self._decoder = self._container.decode(self._stream)
        first = next(self._decoder, None)
        if first is None:
            raise VideoError(f"{self.path.name} holds no frame")
        self._first, self.zero, self._used = first, first.time or 0.0, False

    def _rewound(self) -> Iterable[av.VideoFrame]:
        """All frames from the first one on."""
        if self._used:
            self._container.close()
            self._begin()
        self._used = True
        return chain([self._first], self._decoder)

    def _sought(self, start: float) -> Iterable[av.VideoFrame] | None:
        """The frames from a keyframe before ``start`` on; None if only reading from 0 on does."""
        if start <= 0:
            return None
        self._used = True
        for early in EARLIER:
            try:
                place = int((self.zero + max(0.0, start - early)) / tick(self._stream))
                self._container.seek(place, stream=self._stream)
                frames = self._container.decode(self._stream)
                first = next(frames, None)
            except av.FFmpegError:
                return None
            if first is not None and first.time is not None and first.time - self.zero <= start:
                return chain([first], frames)
        return None

    def _deinterlaced(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """One progressive frame for each, by ffmpeg's bwdif."""
        graph = av.filter.Graph()
        graph.threads = THREADS
        source = graph.add_buffer(template=self._stream, time_base=self._stream.time_base)
        graph.link_nodes(source, graph.add("bwdif", "send_frame"), graph.add("buffersink"))
        graph.configure()
        for frame in chain(frames, [None]):
            graph.push(frame)
            while True:
                try:
                    yield cast(av.VideoFrame, graph.pull())
                except (av.error.BlockingIOError, av.error.EOFError):
                    break

    def _duration(self, frame: av.VideoFrame) -> float:
        return max(frame.duration * tick(frame), 1 / self.fps)


def covering(
    path: Path,
    size: tuple[int, int],
    shape: tuple[int, int],
    times: Sequence[float],
    enlarging: int = AREA,
) -> Iterator[np.ndarray]:
    """The frames nearest to ``times``, cut evenly to the ``shape`` and scaled to the ``size``.

    Both are width and height; where their ratios differ, frames are squeezed. Frames that become
    larger are scaled by the filter ``enlarging``. Raises VideoError.
    """
    with Video(path) as video:
        kept = min(video.width / shape[0], video.height / shape[1])
        factors = [one / (kept * other) for one, other in zip(size, shape, strict=True)]
        width = max(size[0], round(video.width * factors[0]))
        height = max(size[1], round(video.height * factors[1]))
        scaling = enlarging if max(factors) > 1 else AREA
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        part = slice(top, top + size[1]), slice(left, left + size[0])
        for frame in video.at(times):
            yield video.picture(frame, width, height, scaling)[part]
