"""Tables of videos and prompts, the same for every task. Imports no torch.

A row names a video, its text, or both. Columns go by these names in any case, with spaces, ``-`` or
``_``; a column that begins with ``caption`` is one more text. A ``.txt`` holds a text per line.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from pixelwizard.config.schema import ConfigError, show
from pixelwizard.config.train import DataSettings
from pixelwizard.io.files import read_json
from pixelwizard.io.tables import PlacedRow, read_rows, read_text
from pixelwizard.io.terminal import say

FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".txt")
COLUMNS = {
    "video": ("file", "file_name", "filename", "video", "path", "video_path", "file_path"),
    "text": ("text", "prompt", "caption", "prompt_en", "video_prompt", "captions"),
    "id": ("id", "prompt_id"),
    "negative_prompt": ("negative_prompt",),
    "seed": ("seed",),
    "clip": ("video", "input_video"),
    "image": ("image", "image_path", "input_image", "frame_path", "first_frame"),
}
"""What a column may be called; of several in a row the first counts.

A ``clip`` is refined by ``generate``, to which the other names of a ``video`` are only names; an
``image`` is the picture that a video begins with.
"""
STARTS = ("clip", "image")
"""Columns for the files that a prompt can start from; it may then do without a text."""
ANCHOR = ".anchor"
"""Ends the names, without suffix, of the anchors that a run writes next to its videos."""
PROBED = "clips.json"
"""What a run keeps of the videos that it has probed."""
VIDEOS = (
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".wmv", ".flv", ".mxf", ".3gp", ".ogv"),
)


_tell = cache(say)


@dataclass(frozen=True)
class Row:
    """One row: a video or "", its texts, and the other columns; at least one text or a start."""

    place: str
    video: str
    texts: tuple[str, ...]
    id: Any = None
    negative_prompt: Any = None
    seed: Any = None
    clip: str = ""
    image: str = ""

    @property
    def starts(self) -> bool:
        """Whether it names a file to start from."""
        return any(getattr(self, kind) for kind in STARTS)

    @property
    def name(self) -> Any:
        """Its id, else its video or clip without suffix, else None."""
        named = self.video or self.clip
        stem = str(PurePosixPath(named).with_suffix("")) if named else None
        return stem if self.id is None else self.id


@dataclass(frozen=True)
class Table:
    """The rows with a text or a file to start from, and remarks on the others."""

    rows: list[Row]
    notes: tuple[str, ...] = ()

    def tell(self) -> None:
        """Print the notes, each once in a process."""
        for note in self.notes:
            _tell(note)


def read_table(
    path: Path, setting: str, takes: Sequence[str], needs: str = "text", every_text: bool = False
) -> Table:
    """The table of a ``setting``; ``takes`` are the kinds of columns used, ``needs`` a must.

    A row has its first text, or all of them. Raises ConfigError naming file, line and rule.
    """
    key = f"{setting}={path}"
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{key} must end in one of {', '.join(FORMATS)}")
    plain = path.suffix.lower() == ".txt"
    columns, rows, notes = _text_lines(path, key) if plain else (*read_rows(path, key), [])
    starts = [kind for kind in STARTS if kind in takes]
    if not any(_is(kind, name) for kind in starts for name in columns):
        _check_columns(columns if rows else [], key, {"text", needs})
    used: set[str] = set()
    kept, empty = [], []
    for place, values in rows:
        row = _row(place, values, takes, every_text, used)
        if not row.texts and not row.starts:
            empty.append(place)
        elif needs == "video" and not row.video:
            raise ConfigError(f"{place}: no {' or '.join(COLUMNS['video'][:3])} names its video")
        else:
            kept.append(row)
    if not kept:
        raise ConfigError(f"{key} has no row with a text; write at least one")
    unused = [name for name in columns if name.strip() and name not in used]
    if unused:
        notes.append(f"{key}: columns that are not used: {', '.join(unused)}")
    if empty:
        where = empty[0].rpartition(", ")[2]
        notes.append(f"{key}: rows without a text, skipped: {len(empty)}, the first in {where}")
    return Table(kept, tuple(notes))


def _check_columns(columns: Sequence[str], key: str, needs: Collection[str]) -> None:
    for kind in needs if columns else ():
        if not any(_is(kind, name) for name in columns):
            raise ConfigError(
                f"{key} has no column for the {kind} ({', '.join(COLUMNS[kind])}); it has"
                f" {show(', '.join(columns))}"
            )


def clip_table(data: DataSettings) -> Table:
    """The clips of ``data.dir``, by their table or by their .txt files. Raises ConfigError."""
    if not Path(data.dir).is_dir():
        raise ConfigError(f"data.dir={data.dir} is not a folder; name the one with the videos")
    if data.captions is None:
        return _beside_videos(Path(data.dir), "data.dir")
    return read_table(Path(data.captions), "data.captions", ("video", "text"), "video", True)


def _beside_videos(folder: Path, setting: str) -> Table:
    """A row for every video below a folder that has a .txt of its name."""
    videos = videos_below(folder)
    texts = {video: video.with_suffix(".txt") for video in videos}
    rows = [
        Row(str(text), str(video.relative_to(folder)), (words,))
        for video, text in texts.items()
        if (words := text_beside(video, setting))
    ]
    if not rows:
        raise ConfigError(
            f"{setting}={folder}: no video there has a .txt of its name with its text; write them,"
            " or a table with data.captions=FILE"
        )
    missing = len(videos) - len(rows)
    note = f"{setting}={folder}: videos without a .txt of their name, skipped: {missing}"
    return Table(rows, (note,) if missing else ())


def text_beside(video: Path, setting: str) -> str:
    """The text in the .txt of a video's name; empty without one. Raises ConfigError."""
    text = video.with_suffix(".txt")
    return " ".join(read_text(text, f"{setting}: {text}").split()) if text.is_file() else ""


def written(video: Path, *keys: str) -> str:
    """A text in the record of a run's video, like its ``prompt``; empty without one."""
    try:
        value: Any = read_json(video.with_suffix(".json"))
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return value if isinstance(value, str) else ""


def find_videos(folder: Path, key: str) -> list[Path]:
    """The videos of a run folder, else those of a folder and its subfolders, by name.

    Anchors are left out. Raises ConfigError, which names ``key``, if there are none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{key}={folder} is not a folder; give one that holds videos")
    for place in (folder / "videos", folder):
        if found := [path for path in videos_below(place) if not path.stem.endswith(ANCHOR)]:
            return found
    raise ConfigError(f"{key}={folder} holds no video ({', '.join(VIDEOS)})")


def videos_below(folder: Path) -> list[Path]:
    """The videos of a folder and its subfolders, by name; no hidden ones and no copies of W&B's."""
    found: list[Path] = []
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if name != "wandb" and not name.startswith(".")]
        shown = (Path(place) / name for name in names if not name.startswith("."))
        found += [path for path in shown if path.suffix.lower() in VIDEOS and path.is_file()]
    return sorted(found)


def _text_lines(path: Path, key: str) -> tuple[list[str], list[PlacedRow], list[str]]:
    """The lines of a .txt; ``# `` begins a comment. Only line ends end a line."""
    rows: list[PlacedRow] = []
    comments = 0
    for number, line in enumerate(io.StringIO(read_text(path, key), newline=None), start=1):
        line = line.strip()
        if line == "#" or line.startswith("# "):
            comments += 1
        elif line:
            rows.append((f"{key}, line {number}", {"text": line}))
    notes = [f"{key}: comments (lines that begin with '# '): {comments}"] if comments else []
    return ["text"], rows, notes


def _row(
    place: str, values: Mapping[str, Any], takes: Sequence[str], every: bool, used: set[str]
) -> Row:
    """One row; the columns that it uses are added to ``used``."""
    texts = {name: _texts(values[name], place) for name in values if _is("text", name)}
    given = [name for name, found in texts.items() if found]
    found: dict[str, Any] = {}
    for kind in takes:
        columns = given if kind == "text" else [name for name in values if _is(kind, name)]
        columns = columns if every and kind == "text" else sorted(columns, key=_rank(kind))[:1]
        used.update(columns)
        if kind == "text":
            found["texts"] = tuple(text for name in columns for text in texts[name])
        elif columns:
            found[kind] = values[columns[0]]
    for kind in ("video", *STARTS):
        if not isinstance(found.setdefault(kind, ""), str):
            raise ConfigError(
                f"{place}: the name of a {kind} must be text, not {show(found[kind])}"
            )
        found[kind] = found[kind].strip()
    if not found["texts"] and any(found[kind] for kind in STARTS):
        found["texts"] = ("",)
    return Row(place, **found)


def _texts(value: Any, place: str) -> list[str]:
    """The texts of a cell: one, or those of a list or an object; empty ones are left out."""
    values = list(value.values()) if isinstance(value, dict) else value
    values = values if isinstance(values, list) else [values]
    for text in values:
        if not isinstance(text, str):
            raise ConfigError(f"{place}: a prompt or caption must be text, not {show(text)}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError(f"{place}: half a character (a lone surrogate) in {show(text)}")
    return [text.strip() for text in values if text.strip()]


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]+", "_", column.strip().lower())


def _is(kind: str, column: str) -> bool:
    name = _plain(column)
    return name in COLUMNS[kind] or (kind == "text" and name.startswith("caption"))


def _rank(kind: str) -> Callable[[str], int]:
    """Sorts columns of a kind by how they are called."""
    order = {name: number for number, name in enumerate(COLUMNS[kind])}
    return lambda column: order.get(_plain(column), len(order))
