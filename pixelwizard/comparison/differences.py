"""Arms on the samples that all of them have: values, paired differences, what is dominated.

An interval bounds 95 % of what other prompts and seeds of the kind would give: pairs of prompt and
seed are drawn with repetition, both arms' values of a pair together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from pixelwizard.comparison.arms import Arm, Sample
from pixelwizard.comparison.distance import distances
from pixelwizard.config.compare import AGAINST_REAL, DISTANCE
from pixelwizard.config.schema import ConfigError, choice
from pixelwizard.evaluation.score import Score, mean_with_interval

COSTS = ("seconds", "nfe")
Sign = Literal["better", "worse", "unclear", "equal"]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences from the baseline, and whether its interval excludes 0."""

    value: float
    low: float
    high: float
    sign: Sign


@dataclass(frozen=True)
class Row:
    """One arm: its scores, their differences from the baseline, and the costs that it loses at.

    ``dominated``: by cost, whether another arm is at least as good for at most that, and one of
    both truly.
    """

    arm: Arm
    scores: dict[str, Score]
    differences: dict[str, Difference] = field(default_factory=dict)
    dominated: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All of it; ``quality`` is the score that ranks."""

    rows: list[Row]
    samples: list[Sample]
    quality: str
    baseline: str
    reference: str
    notes: list[str]

    @property
    def names(self) -> list[str]:
        """The scores that every arm has."""
        return list(self.rows[0].scores)


def compare(
    arms: Sequence[Arm],
    notes: Sequence[str] = (),
    *,
    quality: str = DISTANCE,
    baseline: str | None = None,
    reference: str | None = None,
) -> Comparison:
    """Compare the arms on what they share. Raises ConfigError where they share nothing.

    Values of different recipes are never compared: for ``quality`` that is an error, another score
    is left out and noted.
    """
    remarks = list(notes)
    base = _named(arms, baseline, "baseline") if baseline else (arms[0] if arms else None)
    arms, samples = _common(arms, base, remarks)
    base = base if base in arms else arms[0]
    end = _named(arms, reference, "reference") if reference else max(arms, key=lambda arm: arm.nfe)
    table = _scores(arms, end, samples, quality, remarks)
    rows = []
    for arm in arms:
        compared = {name: _paired(table, name, arm, base, samples) for name in table}
        scores = {name: _score(table[name][arm.name], name, samples) for name in table}
        rows.append(Row(arm, scores, compared))
    costs = [cost for cost in COSTS if cost in table]
    for row in rows:
        row.dominated.update({cost: _dominated(row, rows, quality, cost) for cost in costs})
    return Comparison(rows, list(samples), quality, base.name, end.name, remarks)


@dataclass(frozen=True)
class _Column:
    """The values of one score of one arm."""

    values: dict[Sample, float]
    recipe: str
    higher: bool


_Table = dict[str, dict[str, _Column]]


def _named(arms: Sequence[Arm], name: str, key: str) -> Arm:
    found = [arm for arm in arms if arm.name == name]
    if not found:
        raise ConfigError(choice(key, name, [arm.name for arm in arms]))
    return found[0]


def _common(
    arms: Sequence[Arm], base: Arm | None, notes: list[str]
) -> tuple[list[Arm], list[Sample]]:
    """The arms that share samples with the baseline, and what all of those have."""
    if base is None:
        raise ConfigError("there is no finished video in these runs; nothing can be compared yet")
    sharing = [arm for arm in arms if set(arm.videos) & set(base.videos)]
    if len(sharing) < 2:
        raise ConfigError(
            f"no two of these runs have a prompt and a seed in common: {base.name} begins with"
            f" {min(base.videos).prompt!r}, seed {min(base.videos).seed}; make them with the same"
            " prompts and seed"
        )
    for arm in arms:
        if arm not in sharing:
            notes.append(f"{arm.name} has no prompt and seed in common with {base.name}: left out")
    common = set(base.videos)
    for arm in sharing:
        common &= set(arm.videos)
    if not common:
        raise ConfigError("no prompt and seed is in all of these runs; leave out those that differ")
    most = max(len(arm.videos) for arm in sharing)
    if len(common) < most:
        short = ", ".join(a.name for a in sharing if len(a.videos) < most) or "each has others"
        notes.append(
            f"all figures are of the {len(common)} videos that every arm has, of up to {most}"
            f" ({short})"
        )
    return sharing, [sample for sample in base.videos if sample in common]


def _scores(
    arms: Sequence[Arm], end: Arm, samples: Sequence[Sample], quality: str, notes: list[str]
) -> _Table:
    """Every score that all arms have, by one recipe each."""
    table: _Table = {}
    found, recipe = distances(arms, end, samples)
    table[DISTANCE] = {name: _Column(values, recipe, False) for name, values in found.items()}
    seen = [arm.videos[sample].record for arm in arms for sample in samples]
    names = dict.fromkeys(name for record in seen for name in record.get("metrics", {}))
    for name in [*names, *COSTS]:
        columns = {arm.name: _column(arm, name, samples) for arm in arms}
        recipes = {column.recipe for column in columns.values() if column}
        if None in columns.values():
            problem = "not every video has it"
        elif len(recipes) > 1:
            problem = f"it was computed by different recipes: {', '.join(sorted(recipes))}"
        else:
            table[name] = {arm: column for arm, column in columns.items() if column}
            continue
        if name == quality:
            raise ConfigError(f"quality={quality} cannot be compared: {problem}")
        notes.append(f"{name} is left out: {problem}")
    options = [name for name in table if name not in (*COSTS, *AGAINST_REAL)]
    if quality not in options:
        raise ConfigError(choice("quality", quality, options))
    return {quality: table.pop(quality), **table}


def _column(arm: Arm, name: str, samples: Sequence[Sample]) -> _Column | None:
    """The values of a cost or of a score written beside the videos; None if one is missing."""
    found: dict[Sample, tuple[float, str]] = {}
    for sample in samples:
        record = arm.videos[sample].record
        if name == "seconds":
            detail = record["stages"].get("detail", {})
            value = detail.get("seconds")
            recipe = f"seconds of the detail stage/{record['device']}"
        elif name == "nfe":
            value, recipe = record["detail"]["nfe"], "passes through the detail network"
        else:
            metric = record.get("metrics", {}).get(name, {})
            value, recipe = metric.get("value"), metric.get("recipe", "")
        if value is not None:
            found[sample] = (float(value), recipe)
    recipes = dict.fromkeys(recipe for _, recipe in found.values())
    if len(found) < len(samples):
        return None
    values = {sample: value for sample, (value, _) in found.items()}
    return _Column(values, " and ".join(recipes), arm.directions.get(name, False))


def _score(column: _Column, name: str, samples: Sequence[Sample]) -> Score:
    values = torch.tensor([column.values[sample] for sample in samples], dtype=torch.float64)
    mean, low, high = mean_with_interval(values)
    return Score(name, mean, low, high, column.recipe, len(samples), column.higher)


def _paired(table: _Table, name: str, arm: Arm, base: Arm, samples: Sequence[Sample]) -> Difference:
    """Arm minus baseline, sample by sample."""
    ours, theirs = table[name][arm.name], table[name][base.name]
    pairs = [ours.values[sample] - theirs.values[sample] for sample in samples]
    mean, low, high = mean_with_interval(torch.tensor(pairs, dtype=torch.float64))
    if low == high == 0:
        return Difference(mean, low, high, "equal")
    if low <= 0 <= high:
        return Difference(mean, low, high, "unclear")
    return Difference(mean, low, high, "better" if (mean > 0) == ours.higher else "worse")


def _dominated(row: Row, rows: Sequence[Row], quality: str, cost: str) -> bool:
    return any(_beats(other.scores, row.scores, quality, cost) for other in rows)


def _beats(ours: Mapping[str, Score], theirs: Mapping[str, Score], quality: str, cost: str) -> bool:
    """At least as good for at most the cost, and one of both truly."""
    sign = 1 if ours[quality].higher_is_better else -1
    gain = sign * (ours[quality].value - theirs[quality].value)
    spared = theirs[cost].value - ours[cost].value
    return gain >= 0 and spared >= 0 and (gain > 0 or spared > 0)
