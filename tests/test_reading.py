"""Reading videos: the right colours, the right way up, every frame at its own time."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

from pixelwizard.config.geometry import Geometry
from pixelwizard.config.output import VideoSettings
from pixelwizard.io import reading
from pixelwizard.io.reading import ReadFailed, Video, probe, read_clip, read_frames, read_stills
from pixelwizard.io.video import VideoError, VideoWriter

WIDTH, HEIGHT = 64, 32
CODECS = [
    *(
        VideoSettings(codec=codec, bits=bits)
        for codec in ("h264", "h265", "av1")
        for bits in (8, 10)
    ),
    *(VideoSettings(codec="prores"), VideoSettings(codec="ffv1")),
]
STEP = 8
"""Grey levels between two frames of ``numbered``, which repeat after 32."""


def numbered(
    path: Path,
    times: Sequence[float],
    fps: int = 30,
    sound: float = 0.0,
    codec: str = "libx264",
    **options: str,
) -> Path:
    """Frame i is grey, of its own level, and shown at ``times[i]``; ``sound`` in seconds."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 30000)
        audio = container.add_stream("aac", rate=8000) if sound else None
        for number, moment in enumerate(times):
            picture = np.full((HEIGHT, WIDTH, 3), STEP * (number % 32), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p")
            frame.pts, frame.time_base = round(moment * 30000), Fraction(1, 30000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            for start in range(0, int(sound * 8000), 1024):
                silence = av.AudioFrame.from_ndarray(
                    np.zeros((1, 1024), np.float32), "fltp", "mono"
                )
                silence.sample_rate, silence.pts = 8000, start
                container.mux(audio.encode(silence))
            container.mux(audio.encode())
    return path


def regular(count: int, fps: float = 30) -> list[float]:
    return [number / fps for number in range(count)]


def seen(frames: Any) -> list[int]:
    """The numbers of the frames of ``numbered``, modulo 32."""
    return [round(float(frame.mean()) / STEP) for frame in frames]


def clip(path: Path, frames: int, fps: float, start: float = 0.0) -> list[int]:
    return seen(read_clip(path, Geometry(32, 32, frames), fps, start))


def ffmpeg(*arguments: str) -> None:
    tool = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([tool, "-v", "error", "-y", *arguments], check=True)


@pytest.mark.parametrize("settings", CODECS, ids=lambda value: f"{value.codec}-{value.bits}")
def test_colours_come_back_as_they_were_written_by_every_reader(
    tmp_path: Path, settings: VideoSettings
) -> None:
    """Greys, and colours as near as bt709 in eight bits and 4:2:0 can say them."""
    levels = np.array(
        [[(0, 0, 0), (16, 16, 16), (128, 128, 128), (235, 235, 235), (255, 255, 255)]]
        + [[(214, 101, 41), (40, 150, 90), (60, 70, 200), (255, 0, 0), (0, 255, 0)]],
        np.uint8,
    )
    frame = levels.repeat(64, 0).repeat(64, 1)
    path = tmp_path / f"a{settings.suffix}"
    with VideoWriter(path, 320, 128, settings) as writer:
        writer.write(np.stack([frame] * 5))
    for read in (
        list(read_frames(path)),
        list(read_frames(path, 160)),
        list(read_clip(path, Geometry(320, 128, 5), fps=24.0)),
        read_stills(path, 5, 160),
    ):
        back = np.stack(read).astype(float)
        step = back.shape[1] // 2
        away = np.abs(back[:, step // 2 :: step, step // 2 :: step] - levels)
        assert away[:, 0].max() <= 1 and away[:, 1].max() <= 3, away.max((0, -1))


@pytest.mark.parametrize("settings", CODECS, ids=lambda value: f"{value.codec}-{value.bits}")
def test_a_ramp_of_greys_is_read_without_a_bias(tmp_path: Path, settings: VideoSettings) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :, None], (2, 64, 256, 3))
    with VideoWriter(tmp_path / "a.mov", 256, 64, settings) as writer:
        writer.write(ramp)
    back = np.stack(list(read_frames(tmp_path / "a.mov"))).astype(float)
    assert abs((back - ramp).mean()) < 0.2 and np.abs(back - ramp).max() <= 3


BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


@pytest.mark.parametrize(
    ("height", "tags", "weights"),
    [
        (96, "", BT601),  # as players take what is small and says nothing
        (720, "", BT709),
        (96, "colorspace=bt709", BT709),
        (720, "colorspace=smpte170m", BT601),
        (96, "colorspace=bt709:range=pc", BT709),
    ],
)
def test_matrix_and_range_are_those_of_the_stream(
    tmp_path: Path, height: int, tags: str, weights: tuple[float, float]
) -> None:
    luma, blue, red = 118, 91, 179
    colour = f"geq=lum={luma}:cb={blue}:cr={red},format=yuv420p"
    source = ["-f", "lavfi", "-i", f"color=s=160x{height}:r=24:d=0.1,format=yuv420p"]
    colour += f",setparams={tags}" if tags else ""
    ffmpeg(*source, "-vf", colour, "-c:v", "ffv1", "-level", "3", str(tmp_path / "a.mkv"))
    full = "range=pc" in tags
    y, b, r = (luma, blue - 128, red - 128) if full else (
        (luma - 16) * 255 / 219, (blue - 128) * 255 / 224, (red - 128) * 255 / 224
    )  # fmt: skip
    of_red, of_blue = weights
    high, low = y + 2 * (1 - of_red) * r, y + 2 * (1 - of_blue) * b
    expected = (high, (y - of_red * high - of_blue * low) / (1 - of_red - of_blue), low)
    frame = next(read_frames(tmp_path / "a.mkv"))
    assert np.abs(frame.mean((0, 1)) - expected).max() < 1.5


QUADRANTS = ((40, 90), (140, 200))
"""Grey levels of the stored picture: top left, top right, bottom left, bottom right."""


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), ((40, 90), (140, 200))),
        ((0, 1, -1, 0), ((140, 40), (200, 90))),
        ((-1, 0, 0, -1), ((200, 140), (90, 40))),
        ((0, -1, 1, 0), ((90, 200), (40, 140))),
        ((-1, 0, 0, 1), ((90, 40), (200, 140))),
        ((0, -1, -1, 0), ((200, 90), (140, 40))),
    ],
    ids=["none", "right", "half", "left", "mirrored", "mirrored-right"],
)
def test_a_frame_is_shown_as_its_display_matrix_says(
    tmp_path: Path, matrix: tuple[int, int, int, int], shown: Any
) -> None:
    frame = np.kron(np.array(QUADRANTS, np.uint8), np.ones((48, 80), np.uint8))
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 160, 96, VideoSettings()) as writer:
        writer.write(np.repeat(frame[None, :, :, None], 3, 0).repeat(3, 3))
    data, (a, b, c, d) = bytearray(path.read_bytes()), (value << 16 for value in matrix)
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    info, turned = probe(path), matrix[0] == 0
    assert (info.width, info.height) == ((96, 160) if turned else (160, 96))
    for picture in (next(read_frames(path)), read_clip(path, Geometry(96, 96, 1), 24.0)[0]):
        rows, columns = (np.array(picture.shape[:2]) // 4).tolist()
        corners = picture[rows :: 2 * rows, columns :: 2 * columns, 0]
        assert np.abs(corners.astype(int) - shown).max() < 4


def test_pixels_become_square(tmp_path: Path) -> None:
    source = ["-f", "lavfi", "-i", "color=s=64x96:r=24:d=0.1,format=yuv420p,setsar=2"]
    ffmpeg(*source, "-c:v", "libx264", str(tmp_path / "a.mp4"))
    assert (probe(tmp_path / "a.mp4").width, probe(tmp_path / "a.mp4").height) == (128, 96)
    assert next(read_frames(tmp_path / "a.mp4")).shape == (96, 128, 3)
    assert next(read_frames(tmp_path / "a.mp4", 64)).shape == (48, 64, 3)


def test_interlaced_fields_are_woven_into_whole_frames(tmp_path: Path) -> None:
    moving = "color=s=128x64:r=50:d=0.4,geq=lum=235*between(X\\,N*4\\,N*4+30):cb=128:cr=128"
    for name, fields in (("fields", ",interlace"), ("frames", "")):
        flags = ["-flags", "+ilme+ildct"] if fields else []
        ffmpeg("-f", "lavfi", "-i", moving + fields, "-c:v", "libx264", *flags, "-crf", "8",
               str(tmp_path / f"{name}.mp4"))  # fmt: skip
    frames = np.stack(list(read_frames(tmp_path / "fields.mp4"))).astype(int)
    whole = np.stack(list(read_frames(tmp_path / "frames.mp4"))).astype(int)
    assert len(frames) == 10 and len(whole) == 20
    combs = np.abs(np.diff(frames, axis=1)).mean()
    assert combs < 3 * np.abs(np.diff(whole, axis=1)).mean() + 1


@pytest.mark.parametrize(("transfer", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_refused_by_name(tmp_path: Path, transfer: str, name: str) -> None:
    source = "color=s=64x64:r=24:d=0.1,format=yuv420p10le"
    tags = f"setparams=color_trc={transfer}:colorspace=bt2020nc:color_primaries=bt2020"
    ffmpeg("-f", "lavfi", "-i", source, "-vf", tags, "-c:v", "libx264", str(tmp_path / "a.mp4"))
    with pytest.raises(VideoError, match=rf"a.mp4 is HDR \({name}\); convert it to SDR"):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".gif"])
def test_containers_give_every_frame_once_and_the_true_length(tmp_path: Path, suffix: str) -> None:
    path, fps = tmp_path / f"a{suffix}", 10 if suffix == ".gif" else 30
    if suffix in (".gif", ".avi"):
        ffmpeg("-i", str(numbered(tmp_path / "a.mkv", regular(30, fps), fps)), str(path))
    else:
        numbered(path, regular(30), codec="libvpx" if suffix == ".webm" else "libx264")
    info = probe(path, count=True)
    assert info.frames == 30 and info.fps == fps and probe(path).frames == 0
    assert info.seconds == probe(path).seconds == pytest.approx(30 / fps, abs=2e-3)
    assert seen(read_frames(path)) == list(range(30))
    assert clip(path, 5, fps, start=13 / fps) == [13, 14, 15, 16, 17]
    assert clip(path, 29, fps) == list(range(29))
    assert seen(read_stills(path, 3, 32)) in ([0, 14, 29], [0, 15, 29])


def test_a_start_offset_is_no_part_of_the_clip(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.mts", [5 + moment for moment in regular(24)])
    assert probe(path).seconds == pytest.approx(0.8, abs=1e-3)
    assert clip(path, 5, 30) == [0, 1, 2, 3, 4] and clip(path, 5, 30, 0.5) == [15, 16, 17, 18, 19]


def test_sound_that_goes_on_does_not_count(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".ts"):
        path = numbered(tmp_path / f"a{suffix}", regular(15), sound=3.0)
        assert probe(path).seconds == pytest.approx(0.5, abs=2e-3)
        assert probe(path, count=True).frames == 15


def test_the_length_is_that_of_the_packets_whatever_the_header_says(tmp_path: Path) -> None:
    numbered(tmp_path / "none.webm", regular(20), codec="libvpx", live="1")
    wrong = numbered(tmp_path / "wrong.mkv", regular(20))
    data = bytearray(wrong.read_bytes())
    place = data.index(b"\x44\x89\x88") + 3
    data[place : place + 8] = struct.pack(">d", 90_000.0)
    wrong.write_bytes(data)
    for path in (tmp_path / "none.webm", wrong):
        assert probe(path).seconds == pytest.approx(20 / 30, abs=2e-3)
        assert clip(path, 5, 30, start=15 / 30) == [15, 16, 17, 18, 19]


def test_frames_of_a_varying_rate_are_taken_by_their_time(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.2, 0.6, 0.7]
    path = numbered(tmp_path / "a.mp4", times)
    assert seen(read_frames(path)) == [0, 1, 2, 3, 4, 5]
    assert probe(path, count=True).frames == 6
    assert clip(path, 9, 13) == [0, 1, 2, 3, 3, 3, 4, 4, 4]


@pytest.mark.parametrize(
    ("fps", "start"), [(30, 0.0), (30, 0.031), (60, 0.3), (12, 0.2), (24, 0.1)]
)
def test_a_clip_has_the_frames_nearest_to_its_times(tmp_path: Path, fps: int, start: float) -> None:
    path = numbered(tmp_path / "a.mp4", regular(30, fps), fps=fps)
    times = np.array(regular(30, fps))
    wanted = [int(np.abs(times - (start + n / 24)).argmin()) for n in range(5)]
    assert clip(path, 5, 24, start) == wanted


def test_a_clip_of_exactly_its_length_is_whole(tmp_path: Path) -> None:
    for fps in (24, 25, 30, 60):
        path = numbered(tmp_path / f"{fps}.mp4", regular(17 * fps // 24 + 1, fps), fps=fps)
        latest = probe(path).seconds - 17 / 24
        assert latest >= 0
        for start in (0.0, latest / 2, latest):
            assert len(clip(path, 17, 24, start)) == 17
    with pytest.raises(VideoError, match="60.mp4 ends after 17 of 21 frames|ends after 18 of 21"):
        clip(path, 21, 24)


def test_every_place_of_a_stream_without_index_is_read_as_from_its_beginning(
    tmp_path: Path,
) -> None:
    source = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=8", "-c:v", "libx264", "-g", "15"]
    ffmpeg(*source, "-bf", "3", "-x264-params", "open-gop=1", str(tmp_path / "a.ts"))
    whole = list(read_frames(tmp_path / "a.ts"))
    assert len(whole) == 200
    for first in (0, 1, 14, 15, 40, 77, 150, 197):
        with Video(tmp_path / "a.ts") as video:
            (frame,) = video.at([first / 25])
            assert np.array_equal(video.picture(frame, 96, 64), whole[first])


@pytest.mark.parametrize("count", [False, True])
def test_a_matroska_file_that_is_cut_off_is_refused(tmp_path: Path, count: bool) -> None:
    path = numbered(tmp_path / "a.mkv", regular(30))
    assert probe(path, count).seconds == pytest.approx(1.0, abs=0.05)
    data = path.read_bytes()
    path.write_bytes(data[:-600])  # some frames are left
    whole = f"a.mkv is cut off: it holds {len(data) - 600} of {len(data)} bytes"
    with pytest.raises(VideoError, match=whole):
        probe(path, count)


def test_a_video_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    with VideoWriter(path, 64, 64, VideoSettings(codec="ffv1")) as writer:
        writer.write(noise)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    for count in (False, True):
        with pytest.raises(VideoError, match=r"a.mp4 is cut off: it holds \d+ of 20 frames"):
            probe(path, count)


def test_what_holds_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=8000)
        container.mux(audio.encode())
    for name in ("no.mp4", "list.mp4", "gone.mp4", "sound.mp4"):
        with pytest.raises(VideoError, match=f"{name} (cannot be read|holds no)") as refused:
            probe(tmp_path / name)
        assert not isinstance(refused.value, ReadFailed)


def test_a_read_that_fails_for_a_passing_reason_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = numbered(tmp_path / "a.mp4", regular(4))
    failures = [errno.EIO, errno.EMFILE]
    opened = av.open

    def flaky(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "the disk does not answer")
        return opened(*arguments, **options)

    monkeypatch.setattr(reading, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(av, "open", flaky)
    assert clip(path, 1, 30) == [0] and not failures
    failures += [errno.EIO] * 3
    with pytest.raises(ReadFailed, match="a.mp4 cannot be read as a video: the disk does not"):
        probe(path)


def _read_and_collect(path: Path) -> None:
    gc.collect()
    assert len(list(read_frames(path))) == 10


def test_a_process_that_is_forked_after_reading_can_read_and_end(tmp_path: Path) -> None:
    """Threads of ffmpeg's do not survive a fork, and whoever frees them waits for ever."""
    moving = (
        "color=s=128x64:r=50:d=0.4,geq=lum=235*between(X\\,N*4\\,N*4+30):cb=128:cr=128,interlace"
    )
    ffmpeg("-f", "lavfi", "-i", moving, "-c:v", "libx264", "-flags", "+ilme+ildct",
           str(tmp_path / "a.mp4"))  # fmt: skip
    videos = [Video(tmp_path / "a.mp4") for _ in range(2)]
    assert [len(list(video.frames())) for video in videos] == [10, 10]
    held = [video.picture(next(video.frames())[1], 64, 32) for video in videos]
    child = multiprocessing.get_context("fork").Process(
        target=_read_and_collect, args=(tmp_path / "a.mp4",)
    )
    child.start()
    child.join(20)
    assert child.exitcode == 0 and len(held) == 2
