"""A table as Markdown, LaTeX, CSV, HTML, JSON, and for a terminal."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterator
from string import ascii_lowercase
from typing import Any

from pixelwizard.comparison.table import Cell, Table
from pixelwizard.io.terminal import aligned, markdown

_LATEX = {"\\": r"\textbackslash{}", "†": r"\dag{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
STYLE = (
    "body{font:15px system-ui;margin:2em;color:#222}table{border-collapse:collapse}"
    "td,th{padding:.35em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td:first-child,th:first-child{text-align:left}small{color:#666;display:block}"
    ".cited td{color:#555;font-style:italic}.na{color:#999}code{font-size:12px}"
)


def to_text(table: Table) -> str:
    """For a terminal: best values have a star, reasons letters."""
    letters = _letters(table)

    def cell(one: Cell) -> str:
        if one.value is None:
            return f"n/a ({letters[one.why]})"
        return one.text + ("*" if one.best else "")

    recipes = [f"- {c.head}: {c.recipe}, N = {c.videos}" for c in table.columns if c.recipe]
    reasons = [f"({letter}) {why}" for why, letter in letters.items()]
    notes = ["- * is the best value of a column", *(f"- {note}" for note in table.notes)]
    return "\n".join([*aligned(_grid(table, cell)), "", *recipes, *reasons, *notes])


def to_markdown(table: Table) -> str:
    """With bold best values, recipes and sources below."""
    rows = _grid(table, lambda cell: f"**{cell.text}**" if cell.best else cell.text)
    recipes = [f"- {c.head}: `{c.recipe}`, N = {c.videos}" for c in table.columns if c.recipe]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([*markdown(rows), "", *recipes, *notes, ""])


def to_latex(table: Table) -> str:
    """A ``tabular`` of the package booktabs; cited rows lie below a rule, recipes in comments.

    Reasons and notes stand below in small letters.
    """

    letters = _letters(table)

    def cell(one: Cell) -> str:
        if one.value is None:
            return f"n/a$^{{{letters[one.why]}}}$"
        text = _tex(one.text)
        return rf"\textbf{{{text}}}" if one.best else text

    rows = _grid(table, cell, _tex)
    head, body = rows[0], rows[1 : 1 + len(table.rows)]
    lines = [f"% {c.head}: {c.recipe}, N = {c.videos}" for c in table.columns if c.recipe]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [" & ".join(head) + r" \\", r"\midrule", *(" & ".join(r) + r" \\" for r in body)]
    if cited := rows[1 + len(table.rows) :]:
        lines += [r"\midrule", *(" & ".join(row) + r" \\" for row in cited)]
    reasons = [rf"$^{{{letter}}}$ {_tex(why)}. " for why, letter in letters.items()]
    reasons += [rf"{_tex(note)}. " for note in table.notes]
    notes = [r"\par\footnotesize", *reasons] if reasons else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes, ""])


def to_html(table: Table) -> str:
    """One page without anything from elsewhere."""

    def cell(one: Cell) -> str:
        if one.value is None:
            return f'<td class="na">{html.escape(one.text)}</td>'
        value, _, interval = one.text.partition(" ")
        shown = f"<b>{value}</b>" if one.best else value
        return f"<td>{shown}<small>{interval}</small></td>"

    def line(name: str, cells: list[Cell], kind: str = "") -> str:
        return f"<tr{kind}><td>{html.escape(name)}</td>{''.join(map(cell, cells))}</tr>"

    head = "".join(f"<th>{html.escape(title)}</th>" for title in _titles(table))
    body = [line(name, cells) for name, cells in table.rows.items()]
    for name, (source, cells) in table.cited.items():
        body.append(line(f"{name} ({source})", cells, ' class="cited"'))
    recipes = [
        f"<li>{html.escape(c.head)}: <code>{html.escape(c.recipe)}</code>, N = {c.videos}</li>"
        for c in table.columns
        if c.recipe
    ]
    notes = [f"<li>{html.escape(note)}</li>" for note in table.notes]
    return (
        f'<!doctype html><meta charset="utf-8"><title>Table</title><style>{STYLE}</style>\n'
        f"<table><tr>{head}</tr>\n" + "\n".join(body) + "</table>\n"
        f"<ul>{''.join([*recipes, *notes])}</ul>\n"
    )


def to_csv(table: Table) -> str:
    """A line per row and score."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow([*_KEYS])
    lines.writerows([each.values() for each in flat(table)])
    return out.getvalue()


def to_json(table: Table) -> dict[str, Any]:
    """Plain values."""
    return {"cells": list(flat(table)), "notes": table.notes}


_KEYS = ("row", "score", "value", "low", "high", "videos", "best", "recipe", "missing", "source")


def flat(table: Table) -> Iterator[dict[str, Any]]:
    """Every cell with all that is known of it."""
    measured = {name: ("", cells) for name, cells in table.rows.items()}
    for name, (source, cells) in {**measured, **table.cited}.items():
        for column, cell in zip(table.columns, cells, strict=True):
            found = cell.value
            figures = [found.value, found.low, found.high] if found else [None] * 3
            videos, recipe = (found.videos or None, found.recipe) if found else (None, "")
            row = [name, column.score, *figures, videos, cell.best, recipe, cell.why, source]
            yield dict(zip(_KEYS, row, strict=True))


def _titles(table: Table) -> list[str]:
    return ["", *(column.title for column in table.columns)]


def _grid(
    table: Table, cell: Callable[[Cell], str], name: Callable[[str], str] = str
) -> list[list[str]]:
    """Headings, measured rows, cited rows, as texts."""
    rows = [[name(title) for title in _titles(table)]]
    rows += [[name(row), *map(cell, cells)] for row, cells in table.rows.items()]
    for row, (source, cells) in table.cited.items():
        rows.append([name(f"{row} (cited: {source})"), *map(cell, cells)])
    return rows


def _letters(table: Table) -> dict[str, str]:
    """A letter for every reason, two once there are more."""
    lines = [*table.rows.values(), *(cells for _, cells in table.cited.values())]
    reasons = dict.fromkeys(cell.why for cells in lines for cell in cells if cell.value is None)
    names = [*ascii_lowercase, *(a + b for a in ascii_lowercase for b in ascii_lowercase)]
    return dict(zip(reasons, names, strict=False))


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
