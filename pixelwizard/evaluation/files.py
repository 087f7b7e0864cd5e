"""The files that are scored: a folder's videos, their captions, a set's hash. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pixelwizard.config.schema import ConfigError
from pixelwizard.data.prompts import texts_by_id
from pixelwizard.io.digests import file_digest

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
ANCHOR = ".anchor"


def find_videos(folder: Path, key: str) -> list[Path]:
    """The video files of a folder by name, or those of its ``videos/`` if it is a run folder.

    Anchors are left out. Raises ConfigError, which names ``key``, if there are none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{key}={folder} is no folder; give one that holds videos")
    for place in (folder, folder / "videos"):
        files = place.iterdir() if place.is_dir() else ()
        found = [path for path in files if path.suffix.lower() in SUFFIXES]
        if found := sorted(path for path in found if not path.stem.endswith(ANCHOR)):
            return found
    raise ConfigError(f"{key}={folder} holds no video ({', '.join(SUFFIXES)})")


def find_captions(
    videos: Sequence[Path], captions: Path | None
) -> tuple[dict[str, str], list[str]]:
    """The caption of each video by its name without suffix, and the ids of the file left over.

    Without a file the captions are the prompts that a run has written beside its videos. Raises
    ConfigError for a file that cannot be read or that fits none of the videos.
    """
    if captions is None:
        found = {path.stem: _written(path, "prompt") for path in videos}
        return {id: text for id, text in found.items() if text}, []
    texts = texts_by_id(captions, "captions")
    known = {path.stem for path in videos}
    fitting = {id: text for id, text in texts.items() if id in known}
    if not fitting:
        raise ConfigError(
            f"captions={captions} matches no video: its ids begin with {next(iter(texts))!r}, the"
            f" videos with {videos[0].stem!r}; an id is the file name without suffix"
        )
    return fitting, [id for id in texts if id not in known]


def backbone_of(videos: Sequence[Path]) -> str:
    """The backbone that made all of the videos, as their runs have written; empty if unknown."""
    found = {_written(path, "config", "backbone", "name") for path in videos}
    return found.pop() or "" if len(found) == 1 else ""


def content_hash(videos: Sequence[Path]) -> str:
    """sha256 of a set of files, whatever their names and order."""
    digests = sorted(file_digest(path) for path in videos)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _written(video: Path, *keys: str) -> str | None:
    """A text that a run has written beside its video."""
    try:
        value = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
