"""The table of a paper: rows side by side under one recipe a column, cited rows set apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelwizard.comparison.scored import Scored, Value
from pixelwizard.config.evaluate import TableConfig
from pixelwizard.config.schema import ConfigError, convert, listed, show
from pixelwizard.config.tasks import read_yaml
from pixelwizard.io.terminal import reason

MISSING = {"hd-lpips": "needs metrics.lpips=true"}


@dataclass(frozen=True)
class Cell:
    """A value, or why there is none; ``best`` of its column's measured rows."""

    value: Value | None = None
    why: str = ""
    best: bool = False
    unstated: bool = False
    """A cited value whose recipe its source does not state."""

    @property
    def text(self) -> str:
        """The value with its interval, without marks; or ``n/a (why)``."""
        if self.value is None:
            return f"n/a ({self.why})"
        shown, low, high = f"{self.value.value:.4g}", self.value.low, self.value.high
        interval = f" [{low:.4g}, {high:.4g}]" if low < high else ""
        return f"{shown}{'†' if self.unstated else ''}{interval}"


@dataclass(frozen=True)
class Column:
    """A score under its heading: which way is better, by which recipe, of how many videos."""

    score: str
    head: str
    higher: bool | None
    recipe: str
    videos: str

    @property
    def title(self) -> str:
        """The heading with an arrow to the better side."""
        return f"{self.head} {'' if self.higher is None else '↑' if self.higher else '↓'}".rstrip()


@dataclass(frozen=True)
class Table:
    """Cells by row; ``cited`` rows with their source come after the measured ones."""

    columns: list[Column]
    rows: dict[str, list[Cell]]
    cited: dict[str, tuple[str, list[Cell]]]
    notes: list[str]


def make_table(config: TableConfig, rows: Sequence[Scored], notes: Sequence[str]) -> Table:
    """The table of a layout. Raises ConfigError for a file of cited rows that is none."""
    found = dict.fromkeys(name for row in rows for name in row.values)
    heads = config.layout.columns or {name: name for name in found}
    remarks = list(notes)
    columns = [_column(name, head, rows, remarks) for name, head in heads.items()]
    cells = {row.name: [_cell(row, column) for column in columns] for row in rows}
    cited: dict[str, tuple[str, list[Cell]]] = {}
    shared = {column.score: column.recipe for column in columns if column.recipe}
    for file in map(Path, config.cited):
        more = _cited(file, columns, shared, remarks)
        if twice := [row for row in more if row in {**cells, **cited}]:
            raise ConfigError(f"cited={file}: another row is called {twice[0]}; rename it there")
        cited |= more
    columns = [_as_cited(column, shared) for column in columns]
    if any(cell.unstated for _, line in cited.values() for cell in line):
        remarks.append("† its source states no recipe")
    return Table(columns, _with_best(cells, columns), cited, remarks)


def _column(name: str, head: str, rows: Sequence[Scored], notes: list[str]) -> Column:
    """The recipe that most rows share; the others are left out of the column."""
    values = {row.name: row.values[name] for row in rows if name in row.values}
    if not values:
        return Column(name, head, None, "", "")
    shared = Counter(value.alike for value in values.values()).most_common(1)[0][0]
    if others := {row: value for row, value in values.items() if value.alike != shared}:
        told = ", ".join(f"{row} by {value.recipe}" for row, value in others.items())
        notes.append(
            f"{name} is not compared where its recipe differs: {told}, the other rows by {shared};"
            " score all rows alike, with reference= and metrics= of table"
        )
    kept = {row: value for row, value in values.items() if value.alike == shared}
    higher = next(iter(kept.values())).higher_is_better
    return Column(name, head, higher, shared, _counts(kept))


def _counts(values: Mapping[str, Value]) -> str:
    """Of how many videos the values of a column are; where rows differ, which."""
    rows: dict[int, list[str]] = {}
    for row, value in values.items():
        rows.setdefault(value.videos, []).append(row)
    if len(rows) == 1:
        return str(next(iter(rows)))
    return ", ".join(f"{count} ({listed(of)})" for count, of in sorted(rows.items()))


def _cell(row: Scored, column: Column) -> Cell:
    value = row.values.get(column.score)
    if value is None:
        why = {**MISSING, **row.missing}.get(column.score, "not among its scores")
        return Cell(why=(row.without or why).split(";")[0])
    if value.alike != column.recipe:
        return Cell(why=f"another recipe: {value.recipe}")
    return Cell(value)


def _with_best(cells: dict[str, list[Cell]], columns: Sequence[Column]) -> dict[str, list[Cell]]:
    """The best value of every column that at least two rows have, marked."""
    marked = {row: [*line] for row, line in cells.items()}
    for number, column in enumerate(columns):
        found = {row: v.value for row, line in cells.items() if (v := line[number].value)}
        if len(found) < 2 or column.higher is None:
            continue
        best = max(found.values()) if column.higher else min(found.values())
        for row in found:
            if found[row] == best:
                marked[row][number] = replace(cells[row][number], best=True)
    return marked


def _as_cited(column: Column, shared: Mapping[str, str]) -> Column:
    """A column that only cited rows fill has the recipe of the first."""
    if column.recipe or column.score not in shared:
        return column
    return replace(column, recipe=shared[column.score], videos="not stated")


def _cited(
    file: Path, columns: Sequence[Column], shared: dict[str, str], notes: list[str]
) -> dict[str, tuple[str, list[Cell]]]:
    """The rows of one file, by name; ``shared`` are the recipes by score. Raises ConfigError.

    Scores without a column are noted.
    """
    key, heads, lost = f"cited={file}", {column.score for column in columns}, set[str]()
    try:
        given: Any = read_yaml(file)
    except OSError as error:
        raise ConfigError(f"{key} cannot be read: {reason(error)}") from None
    if not isinstance(given, dict) or not {"source", "rows"} <= given.keys():
        raise ConfigError(f"{key} must have source: TEXT and rows: {{NAME: {{SCORE: NUMBER}}}}")
    if unknown := given.keys() - {"source", "rows", "recipes"}:
        raise ConfigError(f"{key}: {sorted(unknown)[0]} is none of source, rows, recipes")
    source = convert(given["source"], str, f"{key}: source")
    recipes, rows = given.get("recipes") or {}, given["rows"]
    for name, part in (("recipes", recipes), ("rows", rows)):
        if not isinstance(part, dict):
            raise ConfigError(f"{key}: {name} must be {{NAME: ...}}, not {show(part)}")
    found = {}
    for row, values in rows.items():
        place = f"{key}: rows.{row}"
        if not isinstance(values, dict):
            raise ConfigError(f"{place} must be {{SCORE: NUMBER}}")
        numbers = {
            score: convert(value, float, f"{place}.{score}") for score, value in values.items()
        }
        line = [_cited_cell(column, numbers, recipes, shared) for column in columns]
        found[str(row)] = (source, line)
        lost |= numbers.keys() - heads
    if lost:
        notes.append(f"{file.name} cites scores that have no column here: {listed(sorted(lost))}")
    return found


def _cited_cell(
    column: Column,
    numbers: Mapping[str, float],
    recipes: Mapping[str, str],
    shared: dict[str, str],
) -> Cell:
    """A published value under its column, unless it has another recipe."""
    if column.score not in numbers:
        return Cell(why="not in the source")
    recipe = str(recipes.get(column.score, ""))
    if recipe and shared.setdefault(column.score, recipe) != recipe:
        return Cell(why=f"another recipe: {recipe}")
    number = numbers[column.score]
    value = Value(number, number, number, recipe, recipe, 0, bool(column.higher))
    return Cell(value, unstated=not recipe)
