"""ffmpeg run on files for the text that it prints."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache

import imageio_ffmpeg

from pixelwizard.io.video import VideoError

LINES = 400
"""How many of the last lines of the text are kept."""


def described(arguments: Sequence[str], what: str) -> str:
    """The text of one call. Raises VideoError, which begins with ``what``, if it fails."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-v", "info"]
    done = subprocess.run(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    lines = done.stderr.decode(errors="replace").replace("\r", "\n").splitlines()[-LINES:]
    if done.returncode:
        said = [line.strip() for line in lines if line.strip()] or [f"code {done.returncode}"]
        raise VideoError(f"{what}: {said[-1]}")
    return "\n".join(lines)


@cache
def has_filter(name: str) -> bool:
    """Whether this ffmpeg was built with a filter."""
    tool = imageio_ffmpeg.get_ffmpeg_exe()
    done = subprocess.run([tool, "-hide_banner", "-filters"], capture_output=True, text=True)
    return any(line.split()[1:2] == [name] for line in done.stdout.splitlines())
