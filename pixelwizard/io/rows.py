"""Text files that people write, read line by line and refused by line. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pixelwizard.config.schema import ConfigError

PlacedRow = tuple[str, dict[str, Any]]
"""Where a row stands, for errors, and its values by name."""


def read_text(path: Path, key: str) -> str:
    """A file's UTF-8 text; ``key`` begins the ConfigErrors."""
    if path.is_dir():
        raise ConfigError(f"{key} is a folder, not a file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{key} does not exist; give the path of a file that does") from None
    except OSError as error:
        raise ConfigError(f"{key} cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{key}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError(f"{key}, line {line}: holds a zero byte, so it is not a text file")
    return text


def jsonl_rows(text: str, key: str, example: str) -> Iterator[PlacedRow]:
    """The objects of a .jsonl text; ``example`` is one, for those who wrote something else."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{key}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{place}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{place}: must be an object like {example}")
        yield place, row


def csv_rows(
    text: str, key: str, check_header: Callable[[Sequence[str]], None] | None = None
) -> Iterator[PlacedRow]:
    """The rows of a .csv text, without their empty cells; ``check_header`` may refuse its names."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if check_header is not None and text.strip():
            check_header(reader.fieldnames or [])
        for row in reader:
            place = f"{key}, line {reader.line_num}"
            if None in row:
                raise ConfigError(
                    f"{place}: more cells than the header; put texts with commas in double quotes"
                )
            yield place, {name: cell for name, cell in row.items() if cell}
    except csv.Error as error:
        raise ConfigError(f"{key}, line {reader.line_num + 1}: not CSV ({error})") from None
