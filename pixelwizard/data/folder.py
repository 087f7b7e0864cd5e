"""A folder of videos with a table of their texts, as a set of captioned clips."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pixelwizard.config.geometry import Geometry
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.train import DataSettings
from pixelwizard.data.examples import Clips, Split, Unusable
from pixelwizard.data.table import Row, clip_table
from pixelwizard.io.files import read_json, text_digest, write_json
from pixelwizard.io.reading import PIXELS, ReadFailed, probe, read_clip
from pixelwizard.io.terminal import Line, in_threads, reason, say
from pixelwizard.io.video import VideoError

TOLERANCE = 0.5
"""Frames by which a clip may be shorter than asked for: containers round their duration."""
SLOW = 0.5
"""A share of ``data.fps``; below it so many frames are repeated that it is said."""
KEEP_SECONDS = 20.0
"""How often a scan writes what it has found so far."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probed:
    """A file as it was found, why it is not a video, if so, and what the run uses it for.

    ``modified`` is in nanoseconds.
    """

    bytes: int
    modified: int
    seconds: float = 0.0
    fps: float = 0.0
    problem: str = ""
    split: str = ""


def scan(folder: Path, names: Iterable[str], kept: Path) -> dict[str, Probed]:
    """Every file by name, scanned on all cores; ``kept`` has the unchanged ones.

    Raises ValueError where the machine cannot read one; what was found until then is kept.
    """
    known, found, saved = _known(kept), dict[str, Probed](), time.monotonic()
    files = list(dict.fromkeys(names))

    def probed(name: str) -> Probed:
        return _probed(folder / name, known.get(name))

    try:
        for name, one in in_threads(files, probed, torch.get_num_threads(), Line(), "video"):
            found[name] = one
            if time.monotonic() - saved > KEEP_SECONDS:
                _keep(kept, {**known, **found})
                saved = time.monotonic()
    except ReadFailed as error:
        raise ValueError(f"data.dir={folder}: {error}; repeat the command to go on") from error
    finally:
        _keep(kept, found if len(found) == len(files) else {**known, **found})
    return found


def _probed(path: Path, known: Probed | None) -> Probed:
    try:
        facts = path.stat()
    except OSError as error:
        return Probed(0, 0, problem=reason(error))
    if not path.is_file():
        return Probed(0, 0, problem="it is not a file")
    if known and (known.bytes, known.modified) == (facts.st_size, facts.st_mtime_ns):
        return known
    try:
        info = probe(path)
        return Probed(facts.st_size, facts.st_mtime_ns, info.seconds, info.fps)
    except ReadFailed:
        raise
    except VideoError as error:
        return Probed(facts.st_size, facts.st_mtime_ns, problem=str(error))


def _known(kept: Path) -> dict[str, Probed]:
    """The results of an earlier scan; none if damaged or of another version."""
    try:
        return {name: Probed(**facts) for name, facts in read_json(kept).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep(kept: Path, found: Mapping[str, Probed]) -> None:
    write_json(kept, {name: vars(one) for name, one in found.items()})


class FolderClips(Clips):
    """The usable videos of a folder; each is read from a place drawn anew at every use."""

    def __init__(self, folder: Path, clips: Sequence[tuple[Row, Probed]], fps: float) -> None:
        self.folder, self.clips, self.fps = folder, clips, fps
        facts = [(row.video, row.texts, one.bytes) for row, one in clips]
        digest = text_digest(json.dumps([PIXELS, fps, facts]))[:16]
        self.identity = f"{len(clips)} clips {digest}"

    def __len__(self) -> int:
        return len(self.clips)

    def captions(self, number: int) -> list[str]:
        return list(self.clips[number][0].texts)

    def clip(self, number: int, size: Geometry, rng: random.Random) -> np.ndarray:
        row, found = self.clips[number]
        latest = max(0.0, found.seconds - size.frames / self.fps)
        try:
            return read_clip(self.folder / row.video, size, self.fps, rng.uniform(0, latest))
        except ReadFailed as error:
            raise ValueError(f"data.dir={self.folder}: {error}; repeat the command") from error
        except VideoError as error:
            raise Unusable(f"{row.video}: {error}") from error


def open_folder(data: DataSettings, frames: int, seed: int, kept: Path) -> dict[Split, Clips]:
    """The usable videos of ``data.dir``; ``seed`` draws the ``data.held_out`` that are held out.

    Those that cannot be used are counted, and named in the log; ``kept`` says what each is used
    for. Raises ConfigError if too few can be used.
    """
    folder = Path(data.dir)
    rows = clip_table(data).rows
    found = scan(folder, (row.video for row in rows), kept)
    needed = (frames - TOLERANCE) / data.fps
    usable: list[tuple[Row, Probed]] = []
    problems: list[str] = []
    for row in rows:
        one = found[row.video]
        if not one.problem and one.seconds >= needed:
            usable.append((row, one))
            continue
        short = f"it is {one.seconds:.2f} s long, and {needed:.2f} s are needed"
        problems.append(f"{row.video}: {one.problem or short}")
    videos = sorted({row.video for row, _ in usable})
    if len(videos) <= data.held_out:
        raise ConfigError(
            f"data.dir={folder} has {len(videos)} usable of {len(found)} videos, and more than"
            f" data.held_out={data.held_out} are needed"
            + (f"; the first: {problems[0]}" if problems else "")
            + (f"; nearest: data.held_out={len(videos) - 1}" if videos else "")
        )
    _say_of(data, len(rows), problems, usable)
    held_out = set(random.Random(f"held out {seed}").sample(videos, data.held_out))
    parts: dict[Split, list[tuple[Row, Probed]]] = {"train": [], "heldout": []}
    for row, one in usable:
        split: Split = "heldout" if row.video in held_out else "train"
        parts[split].append((row, one))
        found[row.video] = replace(one, split=split)
    _keep(kept, found)
    return {split: FolderClips(folder, part, data.fps) for split, part in parts.items() if part}


def _say_of(
    data: DataSettings, rows: int, problems: list[str], usable: list[tuple[Row, Probed]]
) -> None:
    for problem in problems:
        log.warning("skipped %s", problem)
    if problems:
        say(f"{len(problems)} of {rows} videos are skipped; run.log names them")
    if slow := sum(one.fps < SLOW * data.fps for _, one in usable):
        say(
            f"{slow} of {len(usable)} videos have less than {SLOW * data.fps:g} frames a second; at"
            f" data.fps={data.fps:g} their frames are repeated"
        )
