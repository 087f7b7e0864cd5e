"""A comparison as rows: for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pixelwizard.comparison.differences import Comparison
from pixelwizard.comparison.sets import SetScore
from pixelwizard.evaluation.score import Difference, Score
from pixelwizard.io.terminal import aligned, markdown

SETS = (
    "Scores of whole sets: the 95 % interval is over a run's videos, or over the runs of a variant"
    " with several; then comes the difference from the baseline, paired by video if the score"
    " allows it."
)
SIGNS = {"better": "+", "worse": "-", "unclear": "?", "equal": "="}
MEANINGS = ", ".join(f"{sign} {word}" for word, sign in SIGNS.items())


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
        "sets": {
            name: {variant: asdict(score) for variant, score in scores.items()}
            for name, scores in comparison.sets.items()
        },
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
        for name, scores in comparison.sets.items():
            one = scores.get(row.variant.name)
            values |= {name: one and one.value, f"{name}/low": one and one.low}
            values[f"{name}/high"] = one and one.high
            values[f"{name}/sign"] = one and one.difference and one.difference.sign
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
        dominated = [row.dominated.get("seconds"), row.dominated.get("nfe")]
        for name, score in row.scores.items():
            figures = _figures(score, row.differences[name], dominated)
            lines.writerow([row.variant.name, name, *figures])
    for name, scores in comparison.sets.items():
        for variant, of_set in scores.items():
            lines.writerow([variant, name, *_figures(of_set, of_set.difference, ["", ""])])
    return out.getvalue()


def _figures(score: Score | SetScore, d: Difference | None, dominated: list[Any]) -> list[Any]:
    """A score, its difference from the baseline, and what it is a score of."""
    apart = [d.value, d.low, d.high, d.sign] if d else [""] * 4
    facts = [score.videos, score.higher_is_better, score.recipe]
    return [score.value, score.low, score.high, *apart, *dominated, *facts]


def to_text(comparison: Comparison) -> str:
    """For a terminal: every score with the sign of its difference, then what must be said.

    The scores are the rows or the columns, whichever is narrower.
    """
    rows = _cells(comparison, lambda d: f" {SIGNS[d.sign] if d else ' '}")
    layouts = aligned(rows), aligned(list(zip(*rows, strict=True)))
    narrow = min(layouts, key=lambda lines: max(map(len, lines)))
    against = f"against {comparison.baseline}: {MEANINGS}; intervals are in comparison.md."
    lines = [*narrow, "", f"{_pairs(comparison)}; {against}{_to_target(comparison)}"]
    if sets := _set_cells(comparison):
        lines += ["", *aligned(sets), "", SETS, ""]
    return "\n".join([*lines, *(f"- {n}" for n in comparison.notes)])


def to_markdown(comparison: Comparison) -> str:
    """The table for a page, with its legend and the recipes."""
    rows = _cells(comparison, lambda d: f" ({described(d)})" if d else "")
    lines = markdown(rows, left=(0, len(rows[0]) - 1))
    recipes = [f"- {n}: `{s.recipe}`" for n, s in comparison.rows[0].scores.items()]
    sets = _set_cells(comparison)
    if sets:
        first = {name: next(iter(scores.values())) for name, scores in comparison.sets.items()}
        recipes += ["", *markdown(sets), "", SETS, ""]
        recipes += [f"- {name}: `{score.recipe}`" for name, score in first.items()]
    notes = [f"- {note}" for note in comparison.notes]
    return "\n".join([*lines, "", legend(comparison), "", *recipes, *notes, ""])


def legend(comparison: Comparison) -> str:
    """How to read the table."""
    return (
        f"{_pairs(comparison)}. Each value has its difference from {comparison.baseline} with the"
        f" 95 % interval over the pairs: {MEANINGS}.{_to_target(comparison)}"
    )


def _pairs(comparison: Comparison) -> str:
    count = len(comparison.samples)
    return f"{count} pair{'s' * (count != 1)} of prompt and seed"


def _to_target(comparison: Comparison) -> str:
    to = comparison.target
    return f" distance: MSE to the latent of {to} from the same noise." if to else ""


def _cells(
    comparison: Comparison, against: Callable[[Difference | None], str]
) -> list[tuple[str, ...]]:
    """Values, each with what ``against`` says of its difference; the baseline has none."""
    names = comparison.names
    arrows = [f"{n} {'↑' if comparison.rows[0].scores[n].higher_is_better else '↓'}" for n in names]
    table: list[tuple[str, ...]] = [("variant", *arrows, "dominated in")]
    for row in comparison.rows:
        apart = {} if row.variant.name == comparison.baseline else row.differences
        cells = [f"{row.scores[n].value:.4g}{against(apart.get(n))}" for n in names]
        lost = [cost for cost, worse in row.dominated.items() if worse]
        table.append((row.variant.name, *cells, ", ".join(lost) or "-"))
    return table


def _set_cells(comparison: Comparison) -> list[tuple[str, ...]]:
    """The scores of whole sets by variant; no row without any."""
    if not comparison.sets:
        return []
    ways = [next(iter(scores.values())).higher_is_better for scores in comparison.sets.values()]
    heads = [f"{n} {'↑' if up else '↓'}" for n, up in zip(comparison.sets, ways, strict=True)]
    table: list[tuple[str, ...]] = [("variant", *heads)]
    for row in comparison.rows:
        found = [scores.get(row.variant.name) for scores in comparison.sets.values()]
        table.append((row.variant.name, *(_set_cell(s) if s else "-" for s in found)))
    return table


def _set_cell(score: SetScore) -> str:
    interval = f"{score.value:.4g} ({score.low:.4g} to {score.high:.4g})"
    return f"{interval}, {described(score.difference)}" if score.difference else interval


def described(d: Difference) -> str:
    """A difference with its sign and interval."""
    if d.sign == "equal" or d.low == d.high:
        return f"{d.value:+.3g} {SIGNS[d.sign]}"
    return f"{d.value:+.3g} {SIGNS[d.sign]} {d.low:+.3g} to {d.high:+.3g}"
