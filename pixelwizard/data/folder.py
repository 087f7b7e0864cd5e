"""A folder of videos with a table of their texts, as a set of captioned clips."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixelwizard.config.data import DataSettings
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.schema import ConfigError
from pixelwizard.data.examples import Clips, Split, Unusable
from pixelwizard.data.table import Row, read_table
from pixelwizard.io.files import write_text
from pixelwizard.io.reading import PIXELS, probe, read_clip
from pixelwizard.io.video import VideoError

PROBES_AT_ONCE = 8
TOLERANCE = 0.5
"""Frames by which a clip may be shorter than asked for: containers round their duration."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Probed:
    """A file as it was found: its bytes, its seconds, and why it cannot be used, if so."""

    bytes: int
    seconds: float
    problem: str = ""


def probe_all(folder: Path, rows: list[Row], seconds: float, kept: Path | None) -> list[Probed]:
    """Every row's file as it is; ``kept`` remembers those that have not changed their size.

    A clip shorter than ``seconds`` is a problem.
    """
    known: dict[str, Any] = {}
    if kept is not None and kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))

    def look(row: Row) -> Probed:
        path = folder / row.file
        if not path.is_file():
            return Probed(0, 0.0, "it does not exist")
        size = path.stat().st_size
        if row.file in known and known[row.file]["bytes"] == size:
            return Probed(**known[row.file])
        try:
            found = probe(path).seconds
        except VideoError as error:
            return Probed(size, 0.0, str(error))
        if found < seconds:
            return Probed(size, found, f"it is {found:.2f} s long, and {seconds:.2f} s are needed")
        return Probed(size, found)

    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        found = list(pool.map(look, rows))
    if kept is not None:
        table = {row.file: vars(one) for row, one in zip(rows, found, strict=True)}
        text = json.dumps(table, indent=1, ensure_ascii=False)
        write_text(kept, text)
    return found


class FolderClips(Clips):
    """The usable videos of a folder; each is read from a place drawn anew at every use."""

    def __init__(self, folder: Path, rows: list[Row], found: list[Probed], fps: float) -> None:
        self.folder, self.rows, self.found, self.fps = folder, rows, found, fps
        facts = [(row.file, row.captions, one.bytes) for row, one in zip(rows, found, strict=True)]
        digest = hashlib.sha256(json.dumps([PIXELS, fps, facts]).encode()).hexdigest()[:16]
        self.identity = f"{len(rows)} clips {digest}"

    def __len__(self) -> int:
        return len(self.rows)

    def captions(self, number: int) -> list[str]:
        return list(self.rows[number].captions)

    def clip(self, number: int, size: Geometry, draw: random.Random) -> np.ndarray:
        path = self.folder / self.rows[number].file
        latest = max(0.0, self.found[number].seconds - size.frames / self.fps)
        try:
            return read_clip(path, size, self.fps, draw.uniform(0, latest))
        except VideoError as error:
            raise Unusable(f"{self.rows[number].file}: {error}") from error


def open_folder(data: DataSettings, frames: int, kept: Path | None = None) -> dict[Split, Clips]:
    """The usable videos of ``data.dir``, the last ``data.held_out`` of them held out.

    Those that cannot be used are counted, and named in the log. Raises ConfigError if too few can.
    """
    folder = Path(data.dir)
    if not folder.is_dir():
        raise ConfigError(f"data.dir={folder} is no folder; name the one with the videos")
    rows = read_table(Path(data.captions or ""))
    found = probe_all(folder, rows, (frames - TOLERANCE) / data.fps, kept)
    problems = [(r, one) for r, one in zip(rows, found, strict=True) if one.problem]
    for row, one in problems:
        log.warning("skipped %s: %s", row.file, one.problem)
    usable = [pair for pair in zip(rows, found, strict=True) if not pair[1].problem]
    if len(usable) <= data.held_out:
        shown = f"; the first: {problems[0][0].file}: {problems[0][1].problem}" if problems else ""
        raise ConfigError(
            f"data.dir={folder} has {len(usable)} usable of {len(rows)} videos, and more than"
            f" data.held_out={data.held_out} are needed{shown}"
        )
    if problems:
        print(f"{len(problems)} of {len(rows)} videos are skipped; run.log names them", flush=True)
    first = len(usable) - data.held_out
    parts: dict[Split, list[tuple[Row, Probed]]] = {"train": usable[:first]}
    if data.held_out:
        parts["heldout"] = usable[first:]
    return {
        split: FolderClips(folder, [r for r, _ in part], [f for _, f in part], data.fps)
        for split, part in parts.items()
    }
