"""Enlarged clips as variants: what a filter makes of the clips that the runs refine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from pixelwizard.comparison.variants import Sample, Variant, Video
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.geometry import Geometry, nearest_frames
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.tasks import load
from pixelwizard.data.source_files import Source, frames_of, source_of
from pixelwizard.generation.scoring import score_run
from pixelwizard.io.files import content_digest, read_json, write_json
from pixelwizard.io.reading import probe
from pixelwizard.io.terminal import Display
from pixelwizard.io.video import VideoWriter
from pixelwizard.records.run_folder import CONFIG

COPIED = ("prompt", "seed", "device", "config", "source")
"""What the record of an enlarged clip has of the video's that was refined from it."""


def enlarged(variants: Sequence[Variant], method: str, folder: Path) -> Variant:
    """The clips of the variants, enlarged by ``method`` to the size of their videos and scored.

    Files go below ``folder``; those that are there already stay. Raises ConfigError where nothing
    was refined, or a clip is gone.
    """
    refined = {
        sample: video
        for variant in variants
        for sample, video in variant.videos.items()
        if video.record.get("source", {}).get("kind") == "video"
    }
    if not refined:
        raise ConfigError(
            f"{method} enlarges the clips that runs refine, and these runs refine none; make them"
            " with --video FILE"
        )
    place = folder / "enlarged" / method
    paths = {
        sample: _enlarge(video, method, place / "videos" / f"{number:03}.mp4")
        for number, (sample, video) in enumerate(refined.items())
    }
    _score(next(iter(refined.values())), paths, place)
    first = next(variant for variant in variants if refined.keys() & variant.videos.keys())
    schedule = {**first.settings["schedule"], "steps": 0, "timesteps": None}
    settings = {**first.settings, "schedule": schedule, "weights": {"enlarged": method}}
    videos = {
        sample: Video(path, read_json(path.with_suffix(".json")), place / "store")
        for sample, path in paths.items()
    }
    return Variant(method, settings, videos, dict(first.directions))


def _enlarge(video: Video, method: str, path: Path) -> Path:
    """Write the clip that a video was refined from at the video's size, unless it is there."""
    source = _source(video)
    if _is_there(path, source, method):
        return path
    started, config = time.perf_counter(), _config_of(video)
    info, (low, high) = probe(video.path), nearest_frames(source.frames)
    size = Geometry(info.width, info.height, low if low == source.frames else high)
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = (path, size.width, size.height, replace(config.video, png=False, codec="h264"))
    with VideoWriter(*shown, fps=source.fps) as writer:
        for frame in islice(frames_of(source, size, size, method), source.frames):
            writer.write(frame[None])
    record: dict[str, Any] = {name: video.record[name] for name in COPIED}
    record |= {"enlarged": method, "weights": {}, "detail": {"nfe": 0}}
    record["stages"] = {"detail": {"seconds": time.perf_counter() - started}}
    write_json(path.with_suffix(".json"), {**record, "files": {path.name: content_digest(path)}})
    return path


def _is_there(path: Path, source: Source, method: str) -> bool:
    try:
        record = read_json(path.with_suffix(".json"))
        same = (record["enlarged"], record["source"]["sha256"]) == (method, source.sha256)
        return bool(same and record["files"][path.name] == content_digest(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _source(video: Video) -> Source:
    """The clip of a video, unchanged. Raises ConfigError."""
    known = video.record["source"]
    source = source_of(known["kind"], Path(known["path"]), video.path.name)
    if source.sha256 != known["sha256"]:
        raise ConfigError(f"{source.path} has changed since {video.path} was made of it")
    return source


def _config_of(video: Video) -> GenerateConfig:
    """The configuration of the run of a video."""
    config = load(video.path.parents[1] / CONFIG)
    assert isinstance(config, GenerateConfig)
    return config


def _score(video: Video, paths: Mapping[Sample, Path], place: Path) -> None:
    """Score the enlarged clips as the run of a video scored its own, if it did."""
    ids = {path.stem: path for path in paths.values()}
    config = replace(_config_of(video), run_dir=str(place))
    if config.scored:
        score_run(config, ids, None, Display(list(ids)))
