"""Videos: what is written is what is read, whole or not at all."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from pixelwizard.config.output import VideoSettings
from pixelwizard.io import video
from pixelwizard.io.reading import comment_of, probe, read_frames
from pixelwizard.io.video import VideoError, VideoWriter

H264, FFV1 = VideoSettings(), VideoSettings(codec="ffv1")


def gradient(frames: int, width: int, height: int) -> np.ndarray:
    """Smooth moving colours."""
    t, y, x = np.mgrid[:frames, :height, :width].astype(np.float32)
    waves = (np.sin(x / 9 + t / 3), np.cos(y / 7), np.sin((x + y) / 11))
    return (np.stack(waves, axis=-1) * 100 + 128).astype(np.uint8)


def write(path: Path, frames: np.ndarray, settings: VideoSettings, comment: str = "") -> None:
    with VideoWriter(path, frames.shape[2], frames.shape[1], settings, comment) as writer:
        writer.write(frames[:1])
        writer.write(frames[1:])


def test_lossless_codec_returns_the_same_bits(tmp_path: Path) -> None:
    frames = gradient(5, 64, 48)
    write(tmp_path / "a.mp4", frames, FFV1)
    assert np.array_equal(np.stack(list(read_frames(tmp_path / "a.mp4"))), frames)


def test_h264_keeps_colours_and_is_tagged_bt709(tmp_path: Path) -> None:
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    frames[:] = (220, 40, 30)
    write(tmp_path / "a.mp4", frames, H264)
    back = np.stack(list(read_frames(tmp_path / "a.mp4"))).astype(int)
    assert back.shape == frames.shape and np.abs(back - frames).max() <= 3
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "a.mp4")]
    described = subprocess.run(ffmpeg, capture_output=True, text=True).stderr
    assert "yuv420p(tv, bt709" in described and "24 fps" in described
    head = (tmp_path / "a.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # faststart


def test_comment_comes_back_whole(tmp_path: Path) -> None:
    comment = '{"prompt": "a = b; #c \\"d\\" \\\\ 色\\n"}'
    write(tmp_path / "a.mp4", gradient(2, 64, 64), H264, comment)
    info = probe(tmp_path / "a.mp4")
    assert comment_of(tmp_path / "a.mp4") == comment
    assert (info.width, info.height, info.fps) == (64, 64, 24)


def test_frames_are_read_scaled(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", gradient(2, 128, 64), H264)
    assert [f.shape for f in read_frames(tmp_path / "a.mp4", 32)] == [(16, 32, 3)] * 2


def test_odd_sizes_are_refused_for_h264_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even width and height, not 33x64; nearest: 34x64"):
        VideoWriter(tmp_path / "a.mp4", 33, 64, H264)
    write(tmp_path / "b.mp4", gradient(2, 33, 31), FFV1)
    assert next(read_frames(tmp_path / "b.mp4")).shape == (31, 33, 3)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize(
    ("settings", "pixels", "least_db"),
    [
        (VideoSettings(), "yuv420p", 34),
        (VideoSettings(bits=10), "yuv420p10le", 34),
        (VideoSettings(codec="h265"), "yuv420p", 34),
        (VideoSettings(codec="h265", bits=10), "yuv420p10le", 34),
        (VideoSettings(codec="av1"), "yuv420p", 34),
        (VideoSettings(codec="av1", bits=10), "yuv420p10le", 34),
        (VideoSettings(codec="prores"), "yuv422p10le", 36),
    ],
    ids=lambda value: f"{value.codec}-{value.bits}" if isinstance(value, VideoSettings) else "",
)
def test_every_codec_returns_nearly_the_same_picture(
    tmp_path: Path, settings: VideoSettings, pixels: str, least_db: float
) -> None:
    frames, path = gradient(3, 96, 64), tmp_path / f"a{settings.suffix}"
    write(path, frames, settings, "a comment")
    back = np.stack(list(read_frames(path)))
    assert back.shape == frames.shape and psnr(back, frames) > least_db
    assert comment_of(path) == "a comment"
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    described = subprocess.run(ffmpeg, capture_output=True, text=True).stderr
    assert f"{pixels}(tv, bt709" in described and "24 fps" in described


def test_frames_are_written_as_pictures_too(tmp_path: Path) -> None:
    frames = gradient(3, 64, 48)
    for _ in range(2):
        write(tmp_path / "50%.mp4", frames, VideoSettings(png=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["50%", "50%.mp4"]
    pictures = sorted((tmp_path / "50%").iterdir())
    assert [p.name for p in pictures] == ["00000.png", "00001.png", "00002.png"]
    assert np.array_equal(np.stack([np.asarray(Image.open(p)) for p in pictures]), frames)


def test_h265_is_tagged_for_apple_players(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", gradient(2, 64, 64), VideoSettings(codec="h265"))
    assert b"hvc1" in (tmp_path / "a.mp4").read_bytes()
    assert len(list(read_frames(tmp_path / "a.mp4"))) == 2


@pytest.mark.parametrize("frames", [1, 60])  # ffmpeg's death shows at the end, or while writing
def test_failing_ffmpeg_is_named_and_leaves_nothing(
    tmp_path: Path, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_encoder", lambda _: ["-c:v", "no_such_codec"])
    with pytest.raises(VideoError, match="ffmpeg could not write a.mp4: .*no_such_codec"):
        write(tmp_path / "a.mp4", gradient(frames, 256, 256), VideoSettings(png=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc"])
def test_an_encoder_of_a_gpu_is_refused_where_there_is_none(codec: str) -> None:
    able = "h264" if codec == "h264_nvenc" else "h265"
    if torch.cuda.is_available():
        video.check_ffmpeg(VideoSettings(codec=codec))
        return
    with pytest.raises(ValueError, match=f"video.codec={codec} needs an NVIDIA .*={able}$") as said:
        video.check_ffmpeg(VideoSettings(codec=codec))
    assert "\n" not in str(said.value)


def test_frames_are_written_while_the_next_ones_are_made(tmp_path: Path) -> None:
    frames, go = gradient(3, 64, 64), threading.Event()
    with VideoWriter(tmp_path / "a.mp4", 64, 64, FFV1) as writer:
        into = writer._process.stdin
        assert into is not None
        slow = SimpleNamespace(write=lambda data: go.wait(10) and into.write(data))
        writer._process.stdin = slow  # type: ignore[assignment]
        for frame in frames[:2]:
            writer.write(frame[None])  # one is being written, one waits
        assert not go.is_set()
        go.set()
        writer.write(frames[2:])
        writer._process.stdin = into
    assert np.array_equal(np.stack(list(read_frames(tmp_path / "a.mp4"))), frames)


def test_interrupted_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", gradient(2, 64, 64), FFV1)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(tmp_path / "a.mp4", 64, 64, FFV1) as writer:
            writer.write(gradient(1, 64, 64))
            raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_what_is_no_video_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoError, match="a.mp4 cannot be read as a video: it is a text file"):
        list(read_frames(tmp_path / "a.mp4"))
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)))
    with pytest.raises(VideoError, match="a.mp4 cannot be read as a video: Invalid data"):
        list(read_frames(tmp_path / "a.mp4"))
