"""Scores of whole sets of videos, like FVD: a figure per variant, unpaired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pixelwizard.comparison.variants import SCORES, Variant, Video
from pixelwizard.evaluation.score import mean_with_interval
from pixelwizard.io.files import read_json


@dataclass(frozen=True)
class SetScore:
    """The mean of a score over the ``runs`` of a variant, each a set of ``videos``.

    The 95 % interval is that of the run over its own videos; of several runs, that over the runs.
    """

    value: float
    low: float
    high: float
    recipe: str
    videos: int
    higher_is_better: bool
    runs: int


def set_scores(variants: Sequence[Variant], notes: list[str]) -> dict[str, dict[str, SetScore]]:
    """By name and variant, the scores that at least two variants have by one recipe.

    What is left out is noted.
    """
    found = {variant.name: _of_variant(variant) for variant in variants}
    table: dict[str, dict[str, SetScore]] = {}
    for name in dict.fromkeys(name for scores in found.values() for name in scores):
        have = {variant: scores[name] for variant, scores in found.items() if name in scores}
        recipes = sorted({score.recipe for score in have.values()})
        if len(recipes) > 1:
            notes.append(
                f"{name} is left out: it was computed by different recipes: {', '.join(recipes)}"
            )
        elif len(have) == 1:
            notes.append(f"{name} is left out: only {next(iter(have))} has it")
        else:
            table[name] = have
    return table


def _of_variant(variant: Variant) -> dict[str, SetScore]:
    """The scores that every run of a variant has by the same recipe."""
    by_run: dict[Path, list[Video]] = {}
    for video in variant.videos.values():
        by_run.setdefault(video.path.parents[1], []).append(video)
    runs = [{score["name"]: score for score in _of_run(*run)} for run in by_run.items()]
    shared = [name for name in runs[0] if all(name in run for run in runs)]
    scores = {name: [run[name] for run in runs] for name in shared}
    return {
        name: _joined(each)
        for name, each in scores.items()
        if len({score["recipe"] for score in each}) == 1
    }


def _of_run(folder: Path, videos: Sequence[Video]) -> Iterator[Mapping[str, Any]]:
    """The scores of a run's set, unless they are of other videos than these, or damaged."""
    try:
        scores = read_json(folder / SCORES)
        own = {video.path.stem: _values(video.record["metrics"]) for video in videos}
        if scores["per_video"] == own:
            yield from (each for each in scores["set"] if each["name"] not in scores["recipes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


def _values(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {name: metric["value"] for name, metric in metrics.items()}


def _joined(scores: Sequence[Mapping[str, Any]]) -> SetScore:
    """One score of several runs as one."""
    first, values = scores[0], [float(score["value"]) for score in scores]
    value, low, high = values[0], first["low"], first["high"]
    if len(values) > 1:
        value, low, high = mean_with_interval(torch.tensor(values, dtype=torch.float64))
    facts = (first["recipe"], first["videos"], first["higher_is_better"])
    return SetScore(value, low, high, *facts, len(values))
