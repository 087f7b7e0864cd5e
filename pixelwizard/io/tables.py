"""Tables in files: those that users write, and those that a training adds to. No torch."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pixelwizard.config.schema import ConfigError

PlacedRow = tuple[str, dict[str, Any]]
"""Where a row stands, for errors, and its values by column; empty cells are left out."""
DELIMITERS = ",;\t"


def read_text(path: Path, key: str) -> str:
    """A file's text, UTF-8 or, with its mark, UTF-16; ``key`` begins the ConfigErrors."""
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "pipe or device"
        raise ConfigError(f"{key} is a {kind}, not a file that can be read again")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{key} does not exist; give the path of a file that does") from None
    except OSError as error:
        raise ConfigError(f"{key} cannot be read: {error.strerror}") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{key}, line {line}: not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError(f"{key}, line {line}: holds a zero byte, so it is not a text file")
    return text


def read_rows(path: Path, key: str) -> tuple[list[str], list[PlacedRow]]:
    """Columns and rows of a .csv, .tsv, .jsonl or .json (a list of objects) file.

    A .csv is separated by what its first line ``sep=;`` says, else by commas, semicolons or tabs,
    whichever its header has most of; columns without a name are not told apart.
    Raises ConfigError naming file, line and rule.
    """
    text = re.sub(r"\r\n?", "\n", read_text(path, key))
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv_rows(text, key)
    rows = list((_array if path.suffix.lower() == ".json" else _lines)(text, key))
    columns = dict.fromkeys(name for _, row in rows for name in row)
    return list(columns), rows


def _csv_rows(text: str, key: str) -> tuple[list[str], list[PlacedRow]]:
    above, mark, text = _without_preamble(text)
    rows: list[PlacedRow] = []
    line = above + 1
    try:
        delimiter = mark or _delimiter(text.partition("\n")[0])
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = list(reader.fieldnames or [])
        if twice := [name for name in columns if name.strip() and columns.count(name) > 1]:
            raise ConfigError(
                f"{key}, line {line}: two columns are called {twice[0]!r}; rename one"
            )
        line += 1
        for row in reader:
            place = f"{key}, line {above + reader.line_num}"
            line = above + reader.line_num + 1
            if None in row:
                raise ConfigError(
                    f"{place}: more cells than the header; put texts with {delimiter!r} in double"
                    " quotes"
                )
            cells = {name: cell for name, cell in row.items() if cell and cell.strip()}
            rows.append((place, cells))
    except csv.Error as error:
        raise ConfigError(f"{key}, line {line}: not CSV ({error})") from None
    return columns, rows


def _without_preamble(text: str) -> tuple[int, str, str]:
    """The lines above a header (empty ones, Excel's ``sep=;``), that delimiter, and the rest."""
    found = re.match(r'(?:[ \t,;]*\n)*(?:"?sep=(.)"?[ \t,;]*\n(?:[ \t,;]*\n)*)?', text, re.I)
    assert found is not None
    return found[0].count("\n"), found[1] or "", text[found.end() :]


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _lines(text: str, key: str) -> Iterator[PlacedRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{key}, line {number}"
            yield place, _object(_parsed(line, place), place)


def _array(text: str, key: str) -> Iterator[PlacedRow]:
    found = _parsed(text, key)
    if not isinstance(found, list):
        raise ConfigError(f'{key}: must be a list of objects like [{{"text": "..."}}]')
    for number, row in enumerate(found, start=1):
        place = f"{key}, entry {number}"
        yield place, _object(row, place)


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON ({error})") from None


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError(f'{place}: must be an object like {{"text": "..."}}')
    return {name: value for name, value in row.items() if value is not None}
