"""The table of a folder of videos: a file and its texts in every line. Imports no torch.

A ``.csv`` has a column ``file`` and one or several whose names begin with ``caption`` (``text`` and
``prompt`` will do for one); a ``.jsonl`` has ``file`` and ``caption``, a text, or ``captions``, a
list of texts or an object of them. File names are relative to the folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelwizard.config.schema import ConfigError, show
from pixelwizard.io.rows import csv_rows, jsonl_rows, read_text

TEXTS = ("caption", "captions", "text", "prompt")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    file: str
    captions: tuple[str, ...]


def read_table(path: Path) -> list[Row]:
    """The rows of a table. Raises ConfigError naming file, line and rule."""
    key = f"data.captions={path}"
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"{key} must end in .csv or .jsonl")
    text = read_text(path, key)
    rows = [_row(place, row) for place, row in readers[path.suffix.lower()](text, key)]
    if not rows:
        raise ConfigError(f"{key} names no video; write at least one line")
    return rows


def _csv_rows(text: str, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, row in csv_rows(text, key):
        texts = [cell for name, cell in row.items() if _is_text(name) and cell.strip()]
        yield place, {"file": row.get("file"), "captions": texts}


def _jsonl_rows(text: str, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, row in jsonl_rows(text, key, '{"file": "a.mp4", ...}'):
        texts = next((row[name] for name in TEXTS if name in row), None)
        texts = list(texts.values()) if isinstance(texts, dict) else texts
        yield place, {"file": row.get("file"), "captions": texts}


def _is_text(column: str) -> bool:
    return column in TEXTS or column.startswith("caption")


def _row(place: str, row: Mapping[str, Any]) -> Row:
    file, texts = row["file"], row["captions"]
    if not isinstance(file, str) or not file.strip():
        raise ConfigError(f"{place}: file={show(file)} must name a video")
    texts = [texts] if isinstance(texts, str) else texts
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(f"{place}: no caption for {file}; give a text, or several")
    return Row(file.strip(), tuple(text.strip() for text in texts))
