"""Scores of whole sets of videos, like FVD: a figure per variant.

Differences are paired by the videos' shares in them, where a score has those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pixelwizard.comparison.variants import Sample, Variant, Video
from pixelwizard.evaluation.score import Difference, difference_of, mean_with_interval
from pixelwizard.io.files import read_json
from pixelwizard.records.run_folder import SCORES


@dataclass(frozen=True)
class SetScore:
    """The mean of a score over the ``runs`` of a variant, each a set of ``videos``.

    The 95 % interval is that of the run over its own videos; of several runs, that over the runs.
    ``difference`` is that from the baseline; without one, ``why`` says what is in the way.
    """

    value: float
    low: float
    high: float
    recipe: str
    videos: int
    higher_is_better: bool
    runs: int
    difference: Difference | None = None
    why: str = ""


@dataclass(frozen=True)
class _Run:
    """The scores of a run's set by name, and the shares of its videos in each."""

    scores: dict[str, Mapping[str, Any]]
    shares: dict[str, dict[Sample, float]]


_Found = dict[str, tuple[SetScore, dict[Sample, float]]]
"""By name: the score of a variant, and the shares of all its videos in it."""


def set_scores(
    variants: Sequence[Variant], base: Variant, notes: list[str]
) -> dict[str, dict[str, SetScore]]:
    """By name and variant, the scores that at least two variants have by one recipe.

    What is left out is noted.
    """
    found = {variant.name: _of_variant(variant) for variant in variants}
    table: dict[str, dict[str, SetScore]] = {}
    for name in dict.fromkeys(name for scores in found.values() for name in scores):
        have = {variant: scores[name] for variant, scores in found.items() if name in scores}
        recipes = sorted({score.recipe for score, _ in have.values()})
        if len(recipes) > 1:
            notes.append(
                f"{name} is left out: it was computed by different recipes: {', '.join(recipes)}"
            )
        elif len(have) == 1:
            notes.append(f"{name} is left out: only {next(iter(have))} has it")
        else:
            theirs = have[base.name][1] if base.name in have else {}
            table[name] = {v: _compared(*one, theirs, v == base.name) for v, one in have.items()}
    return table


def _compared(
    score: SetScore, ours: Mapping[Sample, float], theirs: Mapping[Sample, float], is_base: bool
) -> SetScore:
    """With the difference from the baseline, over the videos that both have shares of."""
    pairs = [value - theirs[sample] for sample, value in ours.items() if sample in theirs]
    if is_base or len(pairs) < 2:
        return score
    return replace(score, difference=difference_of(pairs, score.higher_is_better))


def _of_variant(variant: Variant) -> _Found:
    """The scores that every run of a variant has by the same recipe."""
    by_run: dict[Path, dict[Sample, Video]] = {}
    for sample, video in variant.videos.items():
        by_run.setdefault(video.path.parents[1], {})[sample] = video
    runs = [_of_run(folder, videos) for folder, videos in by_run.items()]
    found: _Found = {}
    for name in runs[0].scores:
        scores = [run.scores[name] for run in runs if name in run.scores]
        if len(scores) == len(runs) and len({score["recipe"] for score in scores}) == 1:
            shares: dict[Sample, float] = {}
            for run in runs:
                shares |= run.shares.get(name, {})
            found[name] = _joined(scores), shares
    return found


def _of_run(folder: Path, videos: Mapping[Sample, Video]) -> _Run:
    """The scores of a run's set, unless they are of other videos than these, or damaged."""
    try:
        scores = read_json(folder / SCORES)
        own = {
            video.path.stem: {name: one["value"] for name, one in video.record["metrics"].items()}
            for video in videos.values()
        }
        if scores["per_video"] != own:
            return _Run({}, {})
        of_set = {s["name"]: s for s in scores["set"] if s["name"] not in scores["recipes"]}
        ids = {video.path.stem: sample for sample, video in videos.items()}
        shares = {
            name: {ids[id]: float(share) for id, share in of.items()}
            for name, of in scores.get("pseudo_values", {}).items()
        }
        return _Run(of_set, shares)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Run({}, {})


def _joined(scores: Sequence[Mapping[str, Any]]) -> SetScore:
    """One score of several runs as one."""
    first, values = scores[0], [float(score["value"]) for score in scores]
    value, low, high = values[0], first["low"], first["high"]
    if len(values) > 1:
        value, low, high = mean_with_interval(torch.tensor(values, dtype=torch.float64))
    facts = (first["recipe"], first["videos"], first["higher_is_better"])
    why = next(iter(first.get("warnings", ())), "its runs have no pseudo-values of single videos")
    return SetScore(value, low, high, *facts, len(values), why=why)
