"""The videos to score with their captions, and the scores in a run folder. No torch here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from pixelwizard.config import schema
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.data.prompts import named
from pixelwizard.data.table import Table, find_videos, read_table, text_beside, written
from pixelwizard.evaluation.names import label_of, resolve_auto, wanted
from pixelwizard.io.files import file_digest, read_json, text_digest, write_json
from pixelwizard.records.run_folder import CONFIG, SCORES, short_hash


@dataclass(frozen=True)
class Clip:
    """A video file that can be read: size in pixels, number of frames, and frames per second."""

    path: Path
    width: int
    height: int
    frames: int
    id: str
    """The name that captions and references know it by."""
    fps: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height


def inspect(path: Path, least: int = 0, id: str = "") -> Clip:
    """Size and number of frames of a video, which has the name of its file unless ``id`` is given.

    Raises VideoError if it is none or has too few frames.
    """
    from pixelwizard.io.reading import probe  # PyAV and numpy: only where a video is opened
    from pixelwizard.io.video import VideoError

    info = probe(path, count=True)
    if info.frames < least:
        raise VideoError(f"it has {info.frames} frames, and at least {least} are needed")
    return Clip(path, info.width, info.height, info.frames, id or path.stem, info.fps)


def ids_of(videos: Sequence[Path]) -> list[str]:
    """The name of each without suffix; where folders share one, with the folders below a common."""
    times = Counter(path.stem for path in videos)
    top = Path(os.path.commonpath([path.parent for path in videos])) if videos else Path()
    return [
        path.stem if times[path.stem] == 1 else path.relative_to(top).with_suffix("").as_posix()
        for path in videos
    ]


def find_captions(
    videos: Sequence[Path], captions: Path | None
) -> tuple[dict[str, str], list[str]]:
    """The caption of each video by its id, and the names of the file that are left over.

    Without a file the captions are the prompts in the records of a run's videos, or the
    .txt there. Raises ConfigError for a file that cannot be read or that fits none of the videos.
    """
    if captions is None:
        found = [written(path, "prompt") or text_beside(path, "captions") for path in videos]
        return {id: text for id, text in zip(ids_of(videos), found, strict=True) if text}, []
    rows = read_captions(captions).rows
    names = map(str, named(rows, f"captions={captions}"))
    texts = {name: row.texts[0] for name, row in zip(names, rows, strict=True)}
    fitting: dict[str, str] = {}
    matched: set[str] = set()
    for id, path in zip(ids_of(videos), videos, strict=True):
        for start in range(len(path.parts)):
            name = PurePosixPath(*path.parts[start:]).with_suffix("").as_posix()
            if name in texts:
                fitting[id] = texts[name]
                matched.add(name)
                break
    if not fitting:
        raise ConfigError(
            f"captions={captions} matches no video: its names begin with {next(iter(texts))!r}, the"
            f" videos' with {videos[0].stem!r}; a name is the file's without suffix"
        )
    return fitting, [name for name in texts if name not in matched]


def read_captions(path: Path) -> Table:
    """The table of ``captions``. Raises ConfigError."""
    return read_table(path, "captions", ("text", "id", "video"))


def backbone_of(videos: Sequence[Path]) -> str:
    """The backbone that made all of the videos, as their runs have written; empty if unknown."""
    found = {written(path, "config", "backbone", "name") for path in videos}
    return found.pop() if len(found) == 1 else ""


def result_files(videos: Sequence[Path], pattern: str = "*") -> list[Path]:
    """What other programs found of these videos, in ``results`` beside them or in their run.

    The newest comes last.
    """
    places = {place / "results" for path in videos for place in path.parents[:2]}
    found = [file for place in places for file in place.glob(pattern) if file.is_file()]
    return sorted(found, key=lambda file: (file.stat().st_mtime_ns, file.name))


def result_folder(video: Path) -> Path:
    """Where results of a video are put: in its run, else beside it."""
    in_run = video.parent.name == "videos" and (video.parents[1] / CONFIG).is_file()
    return (video.parents[1] if in_run else video.parent) / "results"


def content_hash(videos: Sequence[Path]) -> str:
    """sha256 of a set of files, independent of their names and order."""
    digests = sorted(file_digest(path) for path in videos)
    return text_digest("".join(digests))


def decided(metrics: MetricsSettings, videos: Sequence[Path]) -> MetricsSettings:
    """The metrics of any videos, ``auto`` decided."""
    return resolve_auto(metrics, backbone_of(videos))


SCORE_FORMAT = 6
"""To be raised when a score computes something else: older values are then computed again."""


def settings_of(config: GenerateConfig) -> MetricsSettings:
    """The metrics of a run, ``auto`` decided."""
    return resolve_auto(config.metrics, config.backbone.name)


def reference_of(config: GenerateConfig) -> list[Path]:
    """The real videos that a run's are compared with."""
    return [] if config.reference is None else find_videos(Path(config.reference), "reference")


def identity(config: GenerateConfig, videos: Mapping[str, Path]) -> str:
    """Eight digits of all that determines the scores of a run."""
    return identity_of(settings_of(config), videos, reference_of(config))


def identity_of(
    settings: MetricsSettings, videos: Mapping[str, Path], reference: Sequence[Path]
) -> str:
    """Eight digits of all that determines scores: files, networks, the reference.

    ``auto`` is decided in ``settings``.
    """
    labels = [label_of(network, settings) for network in wanted(settings, bool(reference))]
    determining = [
        SCORE_FORMAT,
        {id: file_digest(path) for id, path in videos.items()},
        labels,
        settings.lpips,
        find_spec("cv2") is not None,
        {path.name: file_digest(path) for path in reference},
        sorted(file_digest(path) for path in result_files([*videos.values()])),
    ]
    determining += ["vbench"] * bool(settings.vbench)
    return short_hash(determining + [schema.identity(settings.extra)] * bool(settings.extra))


def kept_scores(config: GenerateConfig, videos: Mapping[str, Path]) -> dict[str, Any] | None:
    """The content of ``metrics.json`` if it is of these very videos and in each record too.

    A score that failed is tried again, with all the others.
    """
    try:
        kept: dict[str, Any] = read_json(Path(config.run_dir) / SCORES)
        beside = all("metrics" in read_json(path.with_suffix(".json")) for path in videos.values())
        whole = beside and not kept.get("failed") and kept["of"] == identity(config, videos)
        return kept if whole else None
    except (OSError, ValueError, KeyError):
        return None


def keep_scores(config: GenerateConfig, videos: Mapping[str, Path], scores: dict[str, Any]) -> None:
    """Write every video's values into its ``ID.json``, then all of them into ``metrics.json``."""
    for id, path in videos.items():
        values, recipes = scores["per_video"].get(id, {}), scores["recipes"]
        record = read_json(path.with_suffix(".json"))
        record["metrics"] = {
            name: {"value": value, "recipe": recipes[name]} for name, value in values.items()
        }
        write_json(path.with_suffix(".json"), record)
    write_json(Path(config.run_dir) / SCORES, {**scores, "of": identity(config, videos)})
