"""Tables for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Rows = Sequence[Sequence[str]]


def aligned(rows: Rows, left: Collection[int] = (0,)) -> list[str]:
    """A line per row, every column as wide as its widest cell; those in ``left`` to the left."""
    return ["  ".join(cells).rstrip() for cells in _padded(rows, left)]


def markdown(rows: Rows, left: Collection[int] = (0,)) -> list[str]:
    """The same as a Markdown table; the first row is the header."""
    head, *others = _padded(rows, left)
    rule = ["-" * (len(c) + 1) + ("-" if i in left else ":") for i, c in enumerate(head)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *others)]
    return [lines[0], "|" + "|".join(rule) + "|", *lines[1:]]


def _padded(rows: Rows, left: Collection[int]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
