"""A comparison as rows: for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from pixelwizard.comparison.differences import Comparison, Difference, Row
from pixelwizard.io.terminal import aligned, markdown

SIGNS = {"better": "+", "worse": "-", "unclear": "?", "equal": "="}


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values of everything but the videos."""
    return {
        "quality": comparison.quality,
        "baseline": comparison.baseline,
        "target": comparison.target,
        "samples": [asdict(sample) for sample in comparison.samples],
        "arms": [
            {
                "name": row.variant.name,
                "scores": {name: asdict(score) for name, score in row.scores.items()},
                "differences": {name: asdict(d) for name, d in row.differences.items()},
                "dominated": row.dominated,
            }
            for row in comparison.rows
        ],
        "notes": comparison.notes,
    }


def flat_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row of plain values per variant."""
    rows = []
    for row in comparison.rows:
        values: dict[str, Any] = {"arm": row.variant.name}
        for name, score in row.scores.items():
            values |= {name: score.value, f"{name}/low": score.low, f"{name}/high": score.high}
            values[f"{name}/sign"] = row.differences[name].sign
        rows.append(values | {f"dominated/{cost}": lost for cost, lost in row.dominated.items()})
    return rows


def to_csv(comparison: Comparison) -> str:
    """A line per variant and score."""
    out = io.StringIO()
    head = ["arm", "score", "value", "low", "high", "difference", "difference_low"]
    head += ["difference_high", "sign", "dominated_by_seconds", "dominated_by_nfe", "videos"]
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow([*head, "higher_is_better", "recipe"])
    for row in comparison.rows:
        for name, score in row.scores.items():
            d = row.differences[name]
            lines.writerow(
                [row.variant.name, name, score.value, score.low, score.high, d.value, d.low, d.high]
                + [d.sign, row.dominated.get("seconds"), row.dominated.get("nfe"), score.videos]
                + [score.higher_is_better, score.recipe]
            )
    return out.getvalue()


def to_text(comparison: Comparison) -> str:
    """For a terminal: a line per variant, then what must be said."""
    rows = _cells(comparison)
    lines = aligned(rows, left=range(len(rows[0])))
    return "\n".join([*lines, "", legend(comparison), *(f"- {n}" for n in comparison.notes)])


def to_markdown(comparison: Comparison) -> str:
    """The table for a page, with its legend and the recipes."""
    rows = _cells(comparison)
    lines = markdown(rows, left=(0, len(rows[0]) - 1))
    recipes = [f"- {n}: `{s.recipe}`" for n, s in comparison.rows[0].scores.items()]
    notes = [f"- {note}" for note in comparison.notes]
    return "\n".join([*lines, "", legend(comparison), "", *recipes, *notes, ""])


def legend(comparison: Comparison) -> str:
    """How to read the table."""
    to = comparison.target
    distance = f" distance is to {to}, from the same noise." if to else ""
    return (
        f"{len(comparison.samples)} pairs of prompt and seed; in brackets the difference from"
        f" {comparison.baseline} with its 95 % interval over them: + better, - worse, ? unclear,"
        f" = equal.{distance}"
    )


def _cells(comparison: Comparison) -> list[tuple[str, ...]]:
    names = comparison.names
    arrows = [f"{n} {'↑' if comparison.rows[0].scores[n].higher_is_better else '↓'}" for n in names]
    table: list[tuple[str, ...]] = [("variant", *arrows, "dominated by")]
    for row in comparison.rows:
        cells = [_cell(row, name, comparison) for name in names]
        lost = [cost for cost, worse in row.dominated.items() if worse]
        table.append((row.variant.name, *cells, ", ".join(lost) or "-"))
    return table


def _cell(row: Row, name: str, comparison: Comparison) -> str:
    value = f"{row.scores[name].value:.4g}"
    if row.variant.name == comparison.baseline:
        return value
    return f"{value} ({described(row.differences[name])})"


def described(d: Difference) -> str:
    """A difference with its sign and interval."""
    if d.sign == "equal" or d.low == d.high:
        return f"{d.value:+.3g} {SIGNS[d.sign]}"
    return f"{d.value:+.3g} {SIGNS[d.sign]} {d.low:+.3g} to {d.high:+.3g}"
