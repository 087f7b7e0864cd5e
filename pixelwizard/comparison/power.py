"""How small a difference a paired comparison can show, for every score: what to plan a sweep by.

Of a score of the whole set the pairs are those of the videos' shares in it. The error of its
difference falls with the root of their number, as a mean's does; a discrepancy near 0, where it
falls faster, shows smaller differences than stated. A Fréchet distance also has a bias that falls
with the number: it cancels between arms of one number, and none is known of other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pixelwizard.comparison.differences import Comparison
from pixelwizard.config.generate import PlanConfig
from pixelwizard.config.schema import ConfigError, choice, listed
from pixelwizard.evaluation.score import Difference, detectable, pairs_needed
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


def power_of(comparison: Comparison, config: PlanConfig) -> tuple[list[Power], list[str]]:
    """What ``n`` pairs would show of every score, by default as many as were compared.

    Also a sentence for what has no figure. Raises ConfigError where ``scores`` names one that the
    runs have not, and where nothing is left.
    """
    known = [*comparison.names, *comparison.sets]
    if unknown := [name for name in config.scores if name not in known]:
        raise ConfigError(choice("scores", unknown[0], known))
    group = config.metrics.scores if config.metrics.asked else known
    wanted = config.scores or [name for name in group if name in known]
    lacking = ", ".join(name for name in group if name not in known)
    notes = [f"the runs do not share these scores: {lacking}"] if lacking else []
    pairs, found = config.n or len(comparison.samples), []
    for name in wanted:
        if differences := _differences(comparison, name):
            middle = median(each.deviation for each in differences)
            largest = max((each.value for each in differences), key=abs)
            needed = pairs_needed(middle, largest) if largest else None
            least = detectable(middle, pairs)
            found.append(Power(name, middle, pairs, least, largest, needed))
        else:
            why = next(score.why for score in comparison.sets[name].values())
            notes.append(f"{name} has no value: {why}")
    if not found:
        raise ConfigError(f"none of these scores has paired differences: {listed(wanted or group)}")
    return found, notes


def _differences(comparison: Comparison, name: str) -> list[Difference]:
    """The differences of the variants from the baseline in a score."""
    if name in comparison.sets:
        found = [score.difference for score in comparison.sets[name].values()]
        return [one for one in found if one]
    others = [row for row in comparison.rows if row.variant.name != comparison.baseline]
    return [row.differences[name] for row in others]


def power_table(found: Sequence[Power], notes: Sequence[str]) -> str:
    """For a terminal."""
    head = ("score", "deviation", f"{found[0].pairs} pairs show", "largest seen", "pairs for that")
    rows: list[tuple[str, ...]] = [head]
    for one in found:
        figures = (f"{number:.3g}" for number in (one.deviation, one.detectable, one.largest))
        rows.append((one.score, *figures, "-" if one.needed is None else str(one.needed)))
    legend = "differences of pairs from the baseline, told from 0 with 80 % power"
    return "\n".join([*aligned(rows), "", legend, *(f"- {note}" for note in notes)])
