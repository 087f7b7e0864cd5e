"""What a video file says without decoding: streams, packets, metadata, errors.

Times are seconds of the stream, whose first frame need not be at 0.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import av
from av.container import InputContainer
from av.video.stream import VideoStream

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
        kind = ReadFailed if error.errno in PASSING else VideoError
        raise kind(f"{path.name} cannot be read as a video: {error.strerror}") from error


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
