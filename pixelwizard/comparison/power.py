"""How small a difference a paired comparison can show, for every score: what to plan a sweep by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pixelwizard.comparison.differences import Comparison
from pixelwizard.config.schema import ConfigError, choice
from pixelwizard.evaluation.score import detectable, pairs_needed
from pixelwizard.io.terminal import aligned


@dataclass(frozen=True)
class Power:
    """Of a score: the deviation of paired differences (the median of all variants), the smallest
    difference that ``pairs`` show, the largest that was seen, and how many pairs that one needs."""

    score: str
    deviation: float
    pairs: int
    detectable: float
    largest: float
    needed: int | None


def power(comparison: Comparison, pairs: int | None, metrics: Sequence[str] = ()) -> list[Power]:
    """What so many pairs would show of every score, by default as many as were compared.

    ``metrics`` are the scores wanted. Raises ConfigError for one that the runs have not.
    """
    if unknown := [name for name in metrics if name not in comparison.names]:
        raise ConfigError(choice("metrics", unknown[0], comparison.names))
    count = pairs or len(comparison.samples)
    others = [row for row in comparison.rows if row.variant.name != comparison.baseline]
    found = []
    for name in metrics or comparison.names:
        differences = [row.differences[name] for row in others]
        middle = median(each.deviation for each in differences)
        largest = max((each.value for each in differences), key=abs)
        needed = pairs_needed(middle, largest) if largest else None
        found.append(Power(name, middle, count, detectable(middle, count), largest, needed))
    return found


def power_table(found: Sequence[Power]) -> str:
    """For a terminal."""
    head = ("score", "deviation", f"{found[0].pairs} pairs show", "largest seen", "pairs for that")
    rows: list[tuple[str, ...]] = [head]
    for one in found:
        figures = (f"{number:.3g}" for number in (one.deviation, one.detectable, one.largest))
        rows.append((one.score, *figures, "-" if one.needed is None else str(one.needed)))
    legend = "differences of pairs from the baseline, told from 0 with 80 % power"
    return "\n".join([*aligned(rows), "", legend])
