"""``pixelwizard replay VIDEO.mp4``: regenerate a video from its metadata."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.tasks import Command, run_in_workers
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.tasks import ReplayConfig
from pixelwizard.generation.replay import changed_versions, repetition

EXAMPLES = """\
  pixelwizard replay outputs/RUN/videos/ID.mp4           into a new folder in outputs/
  pixelwizard replay VIDEO.mp4 out=FOLDER
  pixelwizard replay VIDEO.mp4 given=clip.mp4            the refined clip, if it was moved

On the same machine with the same versions, the latents are bit-equal. The store is used if it still
has them. The weights must be the same."""


def check(config: ReplayConfig) -> None:
    """Refuse a video that cannot be regenerated. Raises ValueError."""
    if config.file is None:
        raise ConfigError("name the video after the task: replay VIDEO.mp4")
    repetition(Path(config.file), config.out, config.trust, config.given)


def run(config: ReplayConfig, command_line: Sequence[str]) -> int:
    """Run ``generate`` with the settings inside the video; returns the exit code."""
    assert config.file is not None
    video = Path(config.file)
    again = repetition(video, config.out, config.trust, config.given)
    if changed := changed_versions(video, again):
        print(f"versions differ from the video's: {', '.join(changed)}", file=sys.stderr)
    return run_in_workers(again, command_line)


COMMAND = Command(EXAMPLES, check, run, word="file")
