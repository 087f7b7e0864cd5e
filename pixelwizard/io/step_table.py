"""CSV files of a training: each row begins with a step and is flushed. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelwizard.io.files import write_text


class StepTable:
    """A CSV file whose rows begin with a step; names that it has no column for add one."""

    def __init__(self, path: Path, columns: Sequence[str] = ("step",)) -> None:
        self.path, self.columns = path, list(columns)

    def rows(self) -> list[dict[str, str]]:
        """What is written, without a line that was torn."""
        if not self.path.is_file():
            return []
        with open(self.path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(line for line in file if line.endswith("\n")))

    def keep(self, step: int) -> None:
        """Drop the rows after ``step``."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        self.columns = list(dict.fromkeys([*self.columns, *(n for row in rows for n in row)]))
        header = dict(zip(self.columns, self.columns, strict=True))
        write_text(self.path, self._text([header, *rows]))

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows."""
        rows = list(rows)
        names = dict.fromkeys([*self.columns, *(name for row in rows for name in row)])
        if len(names) > len(self.columns):
            self.columns = list(names)
            self.keep(max(int(row["step"]) for row in (*self.rows(), *rows)))
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(self._text(rows))

    def _text(self, rows: Iterable[Mapping[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        return text.getvalue()
