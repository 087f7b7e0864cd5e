"""Variants on their shared samples: values, paired differences, dominated points.

Intervals are 95 % bootstrap intervals, widened for few pairs: pairs of prompt and seed are
resampled, with the values of both variants together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pixelwizard.comparison.distance import compared_stage, distances, target_of
from pixelwizard.comparison.sets import SetScore, set_scores
from pixelwizard.comparison.variants import SAMPLERS, Sample, Variant
from pixelwizard.config.evaluate import AGAINST_REAL, DISTANCE, why_no_target
from pixelwizard.config.schema import ConfigError, choice
from pixelwizard.evaluation.score import Difference, Score, difference_of, mean_with_interval
from pixelwizard.records.run_folder import SCORES

COSTS = ("seconds", "nfe")
BESIDE = ("skipped", "all-seconds")
"""Further costs, which rank nothing: skipped steps, and the seconds of all stages."""


@dataclass(frozen=True)
class Row:
    """One variant: its scores, their differences from the baseline, and the costs that it loses at.

    ``dominated``: by cost, whether another variant is at least as good for at most that, and one of
    both truly.
    """

    variant: Variant
    scores: dict[str, Score]
    differences: dict[str, Difference] = field(default_factory=dict)
    dominated: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All of it; ``quality`` is the score that ranks, ``target`` that of distance, if it is one.

    ``sets`` are scores of whole sets of videos, by name and variant.
    """

    rows: list[Row]
    samples: list[Sample]
    quality: str
    baseline: str
    target: str | None
    notes: list[str]
    sets: dict[str, dict[str, SetScore]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The scores that every variant has."""
        return list(self.rows[0].scores)


def compare(
    variants: Sequence[Variant],
    notes: Sequence[str] = (),
    *,
    quality: str | None = None,
    baseline: str | None = None,
    target: str | None = None,
) -> Comparison:
    """Compare the variants on what they share. Raises ConfigError where they share nothing.

    Values of different recipes are never compared: for ``quality`` that is an error, another score
    is left out and noted.
    """
    remarks, stage = list(notes), compared_stage(variants)
    base = _named(variants, baseline, "baseline") if baseline else next(iter(variants), None)
    variants, samples = _common(variants, base, remarks)
    _note_sizes(variants, remarks)
    base = base if base in variants else variants[0]
    end = _target(variants, base, target, quality, remarks, stage)
    table = _scores(variants, end, samples, quality, remarks, stage)
    quality = next(iter(table))
    rows = []
    for variant in variants:
        own = {name: columns[variant.name] for name, columns in table.items()}
        compared = {name: _paired(column, table[name][base.name]) for name, column in own.items()}
        scores = {name: _score(column, name) for name, column in own.items()}
        rows.append(Row(variant, scores, compared))
    for row in rows:
        for cost in (cost for cost in COSTS if cost in table):
            beaten = (_beats(other.scores, row.scores, quality, cost) for other in rows)
            row.dominated[cost] = any(beaten)
    name = end.name if end else None
    sets = set_scores(variants, base, remarks)
    return Comparison(rows, list(samples), quality, base.name, name, remarks, sets)


def _target(
    variants: Sequence[Variant],
    base: Variant,
    name: str | None,
    quality: str | None,
    notes: list[str],
    stage: str,
) -> Variant | None:
    """What distance is to; None, with a note, where no variant can be that.

    Of several trainings it is the baseline's: a network that collapsed is near its own many steps.
    """
    if name:
        named = _named(variants, name, "target")
        if why := why_no_target(named.sampler(stage)):
            raise ConfigError(f"target={name} does not qualify: {why}")
        return named
    own = [variant for variant in variants if variant.trained == base.trained]
    if found := target_of(own, stage) or target_of(variants, stage):
        if len({variant.trained for variant in variants}) > 1:
            notes.append(
                f"the variants have weights of several trainings; {DISTANCE} is to {found.name} for"
                " all of them, and target=NAME names another"
            )
        return found
    closest = max(variants, key=lambda variant: variant.steps(stage))
    missing = (
        f"no variant can be its target; {closest.name} comes closest, but"
        f" {why_no_target(closest.sampler(stage))}; run {SAMPLERS[stage]}=unipc50 with the same"
        " prompts and seeds too"
    )
    if quality == DISTANCE:
        raise ConfigError(f"quality={DISTANCE} cannot be compared: {missing}")
    notes.append(f"{DISTANCE} is left out: {missing}")
    return None


@dataclass(frozen=True)
class _Column:
    """The values of one score of one variant, sample by sample."""

    values: list[float]
    recipe: str
    higher: bool


_Table = dict[str, dict[str, _Column]]


def _named(variants: Sequence[Variant], name: str, key: str) -> Variant:
    found = [variant for variant in variants if variant.name == name]
    if not found:
        raise ConfigError(choice(key, name, [variant.name for variant in variants]))
    return found[0]


def _common(
    variants: Sequence[Variant], base: Variant | None, notes: list[str]
) -> tuple[list[Variant], list[Sample]]:
    """The variants that share samples with the baseline, and what all of those have."""
    if base is None:
        raise ConfigError("there is no finished video in these runs; nothing can be compared yet")
    if len(variants) == 1:
        raise ConfigError(f"all of these videos have the settings of {base.name}; add other runs")
    sharing = [variant for variant in variants if set(variant.videos) & set(base.videos)]
    if len(sharing) < 2:
        raise ConfigError(
            f"no two of these runs have a prompt and a seed in common: {base.name} begins with"
            f" {min(base.videos).prompt!r}, seed {min(base.videos).seed}; make them with the same"
            " prompts and seed"
        )
    for variant in variants:
        if variant not in sharing:
            notes.append(
                f"{variant.name} has no prompt and seed in common with {base.name}: left out"
            )
    common = set(base.videos)
    for variant in sharing:
        common &= set(variant.videos)
    if not common:
        raise ConfigError("no prompt and seed is in all of these runs; leave out those that differ")
    most = max(len(variant.videos) for variant in sharing)
    if len(common) < most:
        short = ", ".join(a.name for a in sharing if len(a.videos) < most) or "each has others"
        notes.append(
            f"all figures are of the {len(common)} videos that every variant has, of up to {most}"
            f" ({short})"
        )
    return sharing, [sample for sample in base.videos if sample in common]


def _note_sizes(variants: Sequence[Variant], notes: list[str]) -> None:
    """Note that variants of several sizes do not share their noise."""
    sizes = {variant.name: variant.size for variant in variants}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        notes.append(f"the variants differ in size, so they begin with different noise: {listed}")


def _scores(
    variants: Sequence[Variant],
    end: Variant | None,
    samples: Sequence[Sample],
    quality: str | None,
    notes: list[str],
    stage: str,
) -> _Table:
    """Every score that all variants have, by one recipe each; the one that ranks comes first."""
    table: _Table = {}
    if end:
        found, recipe = distances(variants, end, samples, stage)
        table[DISTANCE] = {
            name: _Column([*values.values()], recipe, False) for name, values in found.items()
        }
    seen = [variant.videos[sample].record for variant in variants for sample in samples]
    names = dict.fromkeys(name for record in seen for name in record.get("metrics", {}))
    directions = {name: more for v in variants for name, more in v.directions.items()}
    directions |= dict.fromkeys((*COSTS, *BESIDE), False)
    for name in [*names, *COSTS, *BESIDE]:
        higher = directions.get(name)
        columns = {v.name: _column(v, name, samples, bool(higher), stage) for v in variants}
        if not (problem := _problem([*columns.values()], higher)):
            table[name] = {variant: column for variant, column in columns.items() if column}
            continue
        if name == quality:
            raise ConfigError(f"quality={quality} cannot be compared: {problem}")
        notes.append(f"{name} is left out: {problem}")
    options = [name for name in table if name not in (*COSTS, *BESIDE, *AGAINST_REAL)]
    if quality is None:
        last = options or [name for name in COSTS if name in table]
        quality = next(name for name in (DISTANCE, "clip", last[0]) if name in last)
    elif quality not in options:
        raise ConfigError(choice("quality", quality, options))
    if quality != DISTANCE and not end:
        notes.append(f"{quality} ranks the variants instead")
    return {quality: table.pop(quality), **table}


def _problem(columns: Sequence[_Column | None], higher: bool | None) -> str:
    """Why the values of a score cannot be compared; empty if they can."""
    found = [column for column in columns if column]
    if len(found) < len(columns):
        return "not every video has it"
    recipes = sorted({column.recipe for column in found})
    if len(recipes) > 1:
        return f"it was computed by different recipes: {', '.join(recipes)}"
    return "" if higher is not None else f"no {SCORES} says whether more of it is better"


def _column(
    variant: Variant, name: str, samples: Sequence[Sample], higher: bool, stage: str
) -> _Column | None:
    """The values of a cost, or of a score in the videos' records; None if one is missing."""
    values: list[float] = []
    recipes: dict[str, None] = {}
    for sample in samples:
        record = variant.videos[sample].record
        if name in (*COSTS, *BESIDE):
            value, recipe = cost_of(record, name, stage)
        else:
            metric = record.get("metrics", {}).get(name, {})
            value, recipe = metric.get("value"), metric.get("recipe", "")
        if value is None:
            return None
        values.append(float(value))
        recipes[recipe] = None
    return _Column(values, " and ".join(recipes), higher)


def cost_of(record: Mapping[str, Any], name: str, stage: str) -> tuple[float | None, str]:
    """What a video cost, and how that is counted; reused results at what they took once."""
    stages = record["stages"]
    if name == "seconds":
        seconds = stages.get(stage, {}).get("seconds")
        return seconds, f"seconds of the {stage} stage/{record['device']}"
    if name == "all-seconds":
        every = [found.get("seconds", 0.0) for found in stages.values()]
        return sum(every), f"seconds of all stages/{record['device']}"
    sampler = record.get(stage, {})
    if name == "nfe":
        return sampler.get("nfe"), f"passes through the {stage} network"
    skipped = [step for step in sampler.get("steps", []) if step.get("computed") is False]
    return len(skipped), f"skipped steps of the {stage} stage"


def _score(column: _Column, name: str) -> Score:
    found = mean_with_interval(torch.tensor(column.values, dtype=torch.float64))
    return Score(name, *found, column.recipe, len(column.values), column.higher)


def _paired(ours: _Column, theirs: _Column) -> Difference:
    """Variant minus baseline, sample by sample."""
    pairs = [one - other for one, other in zip(ours.values, theirs.values, strict=True)]
    return difference_of(pairs, ours.higher)


def _beats(ours: Mapping[str, Score], theirs: Mapping[str, Score], quality: str, cost: str) -> bool:
    """At least as good for at most the cost, and one of both truly."""
    sign = 1 if ours[quality].higher_is_better else -1
    gain = sign * (ours[quality].value - theirs[quality].value)
    spared = theirs[cost].value - ours[cost].value
    return gain >= 0 and spared >= 0 and (gain > 0 or spared > 0)
