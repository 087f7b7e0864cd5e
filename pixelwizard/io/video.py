"""Frames -> video files, streamed through ffmpeg, so no clip is held whole.

Frames are uint8 RGB arrays; T: frames, H, W: pixels. Files carry the full bt709 tag, so
players show the colours as written, and start with their index, so browsers play them at once.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import IO, TYPE_CHECKING, Any

from pixelwizard.config.output import CODECS, VideoSettings
from pixelwizard.io.files import atomic
from pixelwizard.io.terminal import reason

if TYPE_CHECKING:
    import numpy as np

BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=lanczos+accurate_rnd+full_chroma_int,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)


class ImageError(ValueError):
    """A picture that cannot be used; the text names its file."""


class VideoError(RuntimeError):
    """A video file cannot be read or written; the text is one sentence with ffmpeg's reason."""


def check_size(width: int, height: int, settings: VideoSettings) -> None:
    """Raise ValueError if ``settings.codec`` cannot hold frames of this size."""
    if settings.codec == "ffv1" or not (width % 2 or height % 2):
        return
    even = f"{width + width % 2}x{height + height % 2}"
    raise ValueError(
        f"video.codec={settings.codec} needs an even width and height, not {width}x{height};"
        f" nearest: {even}"
    )


def check_ffmpeg(settings: VideoSettings) -> None:
    """Raise ValueError unless there is an ffmpeg that runs and encodes with ``settings``."""
    try:
        process = _start(["-version"])
        reason = f"it ended with code {process.returncode}" if process.wait() else ""
    except VideoError as error:
        reason = str(error)
    if reason:
        raise ValueError(
            f"videos need ffmpeg, which does not run: {reason}; reinstall imageio-ffmpeg or name"
            " a working one in IMAGEIO_FFMPEG_EXE"
        )
    if settings.codec.endswith("_nvenc"):
        _check_nvenc(settings)


def _check_nvenc(settings: VideoSettings) -> None:
    """Raise ValueError unless a frame can be encoded."""
    black = ["-f", "lavfi", "-i", "color=size=256x256", "-frames:v", "1"]
    if why := _refusal([*black, *_encoder(settings), "-f", "null", "-"]):
        instead = "h264" if settings.codec == "h264_nvenc" else "h265"
        raise ValueError(
            f"video.codec={settings.codec} needs an NVIDIA GPU and an ffmpeg with NVENC: {why};"
            f" use video.codec={instead}"
        )


COPIED = {
    ".mp4": ("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus"),
    ".mov": ("aac", "mp3", "ac3", "eac3", "alac", "pcm_s16le", "pcm_s24le"),
}
"""Codecs of sound that a file of this suffix can hold."""
ANOTHER_SOUND = ("-c:a", "aac", "-b:a", "192k")
"""The options that encode any other sound."""


@dataclass(frozen=True)
class Sound:
    """The sound of another file, from ``start`` seconds after it begins, ``seconds`` long."""

    path: Path
    codec: str
    start: float
    seconds: float

    def is_copied(self, suffix: str) -> bool:
        """Whether a file with this suffix can hold it unchanged."""
        return self.codec in COPIED[suffix]


class VideoWriter:
    """A context that streams frames to ``path``; the file appears whole at the end or not at all.

    With ``settings.png`` the frames are also written as PNG, in a folder named like the video.
    ``fps`` replaces the settings'; ``sound`` goes into the file.

    Raises ValueError for a size the codec cannot hold, VideoError when ffmpeg fails.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        settings: VideoSettings,
        comment: str = "",
        fps: float | None = None,
        sound: Sound | None = None,
    ) -> None:
        check_size(width, height, settings)
        self.path, self.shape, self.frames = path, (height, width, 3), 0
        self._outputs = contextlib.ExitStack()
        outputs = ["-map", "0:v:0", *(_sound(sound, settings.suffix) if sound else [])]
        outputs += ["-f", settings.suffix[1:], str(self._outputs.enter_context(atomic(path)))]
        if settings.png:
            outputs += _pictures(self._outputs.enter_context(atomic(path.with_suffix(""))))
        self._errors = tempfile.TemporaryFile()
        self._waiting: Queue[np.ndarray | None] = Queue(maxsize=1)
        self._broken = threading.Event()
        self._process = _start(
            ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
            + ["-r", str(fps or settings.fps), "-i", "-"]
            + (["-ss", str(sound.start), "-i", f"file:{sound.path}"] if sound else [])
            + [*_encoder(settings), "-metadata", f"comment={comment}", "-map_chapters", "-1"]
            + ["-movflags", "+faststart", *outputs],
            stdin=subprocess.PIPE,
            stderr=self._errors,
        )
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def write(self, frames: np.ndarray) -> None:
        """Append ``[T, H, W, 3]`` uint8 frames, which must not change later.

        They are written in the background. At most one call's frames wait to be written, so the
        next ones can be computed meanwhile.
        """
        assert frames.dtype == "uint8" and frames.shape[1:] == self.shape, frames.shape
        if self._broken.is_set():
            self._process.wait()
            raise self._failure()
        self._waiting.put(frames)
        self.frames += len(frames)

    def _feed(self) -> None:
        """Write what waits until None comes; what ffmpeg no longer takes is dropped."""
        assert self._process.stdin is not None
        while (frames := self._waiting.get()) is not None:
            if self._broken.is_set():
                continue
            try:
                dense = frames if frames.flags.c_contiguous else frames.copy()
                self._process.stdin.write(dense.data)
            except OSError:
                self._broken.set()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                with self._outputs:
                    self._finish()
            else:
                self._end()
                self._outputs.__exit__(*error)
        except OSError as failed:
            raise VideoError(f"{failed.filename}: {reason(failed)}") from failed
        finally:
            self._end()
            self._errors.close()

    def _finish(self) -> None:
        assert self._process.stdin is not None
        self._join()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait() or not self.frames:
            raise self._failure()

    def _join(self) -> None:
        if self._feeder.is_alive():
            self._waiting.put(None)
            self._feeder.join()

    def _end(self) -> None:
        self._process.kill()
        self._join()
        self._process.communicate()

    def _failure(self) -> VideoError:
        self._errors.seek(0)
        return VideoError(
            f"ffmpeg could not write {self.path.name}: "
            + _reason(self._errors.read(), self._process.returncode)
        )


def write_preview(path: Path, preview: Path, height: int) -> None:
    """Write an h264 copy of a video, at most ``height`` pixels high. Raises VideoError."""
    why = _refusal(
        ["-i", str(path), "-vf", f"scale=-2:'min({height},ih)':flags=area,{BT709}"]
        + ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(preview)]
    )
    if why:
        raise VideoError(f"ffmpeg could not make a preview of {path.name}: {why}")


def _sound(sound: Sound, suffix: str) -> list[str]:
    """The sound of the second input in an output of ffmpeg, no longer than the frames."""
    codec = ("-c:a", "copy") if sound.is_copied(suffix) else ANOTHER_SOUND
    return ["-map", "1:a:0", *codec, "-t", str(sound.seconds)]


def _pictures(folder: Path) -> list[str]:
    """A second output of ffmpeg: every frame as a picture in ``folder``."""
    folder.mkdir()
    pattern = str(folder).replace("%", "%%") + "/%05d.png"
    return ["-map", "0:v:0", "-f", "image2", "-start_number", "0", "-c:v", "png", pattern]


def _encoder(settings: VideoSettings) -> list[str]:
    crf, fixed = ["-crf", str(settings.crf)], ["-rc", "constqp", "-qp", str(settings.crf)]
    ten = "10le" if (settings.bits or CODECS[settings.codec].bits[0]) == 10 else ""
    pixels = ["-vf", BT709, "-pix_fmt", f"yuv420p{ten}"]
    codecs = {
        "h264": [*pixels, "-c:v", "libx264", *crf],
        "h265": [*pixels, "-c:v", "libx265", *crf, "-tag:v", "hvc1"]
        + ["-x265-params", "log-level=error"],
        "av1": [*pixels, "-c:v", "libsvtav1", *crf],
        "prores": ["-vf", BT709, "-pix_fmt", "yuv422p10le", "-c:v", "prores_ks"]
        + ["-profile:v", "hq", "-vendor", "apl0"],
        "ffv1": ["-c:v", "ffv1", "-level", "3", "-slices", "16", "-pix_fmt", "bgr0"],
        "h264_nvenc": [*pixels, "-c:v", "h264_nvenc", *fixed],
        "hevc_nvenc": ["-vf", BT709, "-pix_fmt", "p010le" if ten else "yuv420p"]
        + ["-c:v", "hevc_nvenc", *fixed, "-tag:v", "hvc1"],
    }
    return codecs[settings.codec]


def _start(
    arguments: list[str],
    stdin: int = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start ffmpeg in a new session, so Ctrl-C in the terminal reaches only this process."""
    import imageio_ffmpeg  # only where a video is written: every command imports this file

    try:
        tool = imageio_ffmpeg.get_ffmpeg_exe()
        command = [tool, "-hide_banner", "-nostdin", "-v", "error", "-y", *arguments]
        return subprocess.Popen(
            [word.encode("utf-8", "surrogateescape") for word in command],  # in any locale
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: imageio_ffmpeg found none
        raise VideoError(f"ffmpeg cannot be started: {error}") from error


def _refusal(arguments: list[str]) -> str:
    """Run ffmpeg to its end; why it failed, empty if it did not."""
    process = _start(arguments, stderr=subprocess.PIPE)
    _, errors = process.communicate()
    return _reason(errors, process.returncode) if process.returncode else ""


def _reason(stderr: bytes, code: int | None) -> str:
    """The first line that ffmpeg wrote, the cause of those after it, without its prefix."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    first = re.sub(r"^(\[[^]]*\] *)+", "", lines[0]) if lines else ""
    return first or f"it ended with code {code} and no message"
