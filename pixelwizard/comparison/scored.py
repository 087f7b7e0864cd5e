"""Run folders, sweeps, evaluations and folders of videos -> the rows of a table, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pixelwizard.comparison.variants import Variant, read_config, read_variants
from pixelwizard.config.evaluate import EvaluateConfig, TableConfig
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.schema import ConfigError, listed
from pixelwizard.config.targets import search_in
from pixelwizard.data.table import find_videos
from pixelwizard.evaluation.files import decided, find_captions, identity_of, ids_of, kept_scores
from pixelwizard.io.files import read_json, write_json
from pixelwizard.io.terminal import Line
from pixelwizard.records.run_folder import LEDGER, SCORES, STATUS

KEPT = ("value", "low", "high", "recipe", "videos", "higher_is_better")
"""What a figure has of a score."""
FOLDER = "scores"
"""The folder in ``out`` that keeps what was scored for a table."""


@dataclass(frozen=True)
class Value:
    """A figure of a row, with its interval, its recipe, and how many videos it is of.

    ``alike`` is what two values must share to be compared: the recipe, but not the number of videos
    where the value is a mean over them.
    """

    value: float
    low: float
    high: float
    recipe: str
    alike: str
    videos: int
    higher_is_better: bool


@dataclass
class Scored:
    """A row: its figures by name, and why others are missing; ``without``: why all are."""

    name: str
    values: dict[str, Value] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    without: str = ""


@dataclass(frozen=True)
class _Set:
    """Videos that belong together: with captions, records and metrics where a run made them."""

    name: str
    videos: dict[str, Path]
    captions: Mapping[str, str]
    records: Sequence[Mapping[str, Any]] = ()
    evaluation: EvaluateConfig | None = None
    metrics: MetricsSettings = MetricsSettings()
    reference: str | None = None


def scored_rows(config: TableConfig, out: Path, line: Line) -> tuple[list[Scored], list[str]]:
    """The rows in the order of ``runs``, and what must be said.

    A row of which nothing can be scored says so. Raises ConfigError where that is every row.
    """
    rows: list[Scored] = []
    notes: list[str] = []
    said: dict[str, list[str]] = {}
    for folder in map(Path, config.runs):
        try:
            sets = _sets(folder, notes)
        except ConfigError as error:
            rows.append(_without(folder.name, error, notes))
            continue
        for each in sets:
            try:
                if not each.videos:
                    raise ConfigError("it has no finished video")
                scores = _scores(config, each, out / FOLDER, line)
            except ValueError as error:
                rows.append(_without(each.name, error, notes))
                continue
            rows.append(_row(each, scores))
            notes += [f"{each.name}: {id} {why}" for id, why in scores["skipped"].items()]
            for remark in _remarks(scores, config.layout.columns):
                said.setdefault(remark, []).append(each.name)
    if all(row.without for row in rows):
        raise ConfigError(notes[-1].removeprefix(f"{rows[-1].name}: "))
    names = [row.name for row in rows]
    for row in rows:
        if names.count(row.name) > 1:
            raise ConfigError(f"two rows are called {row.name}; rename one of the folders")
    return rows, notes + [f"{listed(of)}: {remark}" for remark, of in said.items()]


def _without(name: str, error: Exception, notes: list[str]) -> Scored:
    """The row of a folder of which nothing can be scored; the note says why."""
    notes.append(f"{name}: {error}")
    return Scored(name, without="none of its videos can be scored")


def _remarks(scores: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """What was said of the scores of a set, without the reasons that stand in its cells."""
    shown = [one for one in scores["set"] if not columns or one["name"] in columns]
    found = [(one["name"], text) for one in shown for text in one.get("warnings", [])]
    reasons = tuple(scores.get("missing", {}).values())
    notes = [note for note in scores.get("notes", []) if not (reasons and note.endswith(reasons))]
    return [*(f"{name}: {text}" for name, text in found), *notes]


def _sets(folder: Path, notes: list[str]) -> list[_Set]:
    """The rows of one folder."""
    evaluated = _config(folder)
    if isinstance(evaluated, EvaluateConfig):
        videos, captions = Path(evaluated.videos or ""), evaluated.captions
        found = _of_folder(folder.name, videos, Path(captions) if captions else None)
        return [replace(found, evaluation=replace(evaluated, run_dir=str(folder)))]
    if (folder / LEDGER).is_file() or (folder / STATUS).is_file():
        variants, said = read_variants([folder], unfinished=True)
        notes += said
        return [_of_variant(variant) for variant in variants]
    return [_of_folder(folder.name, folder, None)]


def _of_folder(name: str, folder: Path, captions: Path | None) -> _Set:
    videos = find_videos(folder, "runs")
    found, _ = find_captions(videos, captions)
    return _Set(name, dict(zip(ids_of(videos), videos, strict=True)), found)


def _of_variant(variant: Variant) -> _Set:
    """An arm of a sweep: the videos of all its seeds, none where it is unfinished."""
    if not variant.videos:
        return _Set(variant.name, {}, {})
    paths = [video.path for video in variant.videos.values()]
    records = [video.record for video in variant.videos.values()]
    videos = dict(zip(ids_of(paths), paths, strict=True))
    run: GenerateConfig = _config(paths[0].parent.parent)
    found, _ = find_captions(paths, None)
    return _Set(variant.name, videos, found, records, None, run.metrics, run.reference)


def _config(folder: Path) -> Any:
    """What a run folder says of itself, its classes found; None where it says nothing."""
    config = read_config(folder)
    if config is not None:
        search_in(config.search)
    return config


def _scores(config: TableConfig, of: _Set, folder: Path, line: Line) -> dict[str, Any]:
    """The scores of a set: its run's own, those of an earlier table, or new ones.

    Where the table asks for no metrics, new ones are by the metrics of the set's first run.
    """
    asked = config.reference is not None or bool(config.metrics.asked)
    if not asked and (own := _own_scores(of)):
        return own
    wanted = config if asked else of
    settings = decided(wanted.metrics, [*of.videos.values()])
    reference = find_videos(Path(wanted.reference), "reference") if wanted.reference else []
    key = identity_of(settings, of.videos, reference)
    kept = folder / f"{key}.json"
    if kept.is_file() and not (earlier := read_json(kept)).get("failed"):
        return earlier
    from pixelwizard.evaluation.evaluate import Evaluation  # with its networks' libraries

    found = Evaluation([*of.videos.values()], of.captions, settings, reference, line).run()
    key = identity_of(settings, of.videos, reference)  # with what a program has put beside them
    write_json(folder / f"{key}.json", found.to_json())
    return read_json(folder / f"{key}.json")


def _own_scores(of: _Set) -> dict[str, Any] | None:
    """What ``generate`` or ``evaluate`` wrote of these very videos."""
    if (given := of.evaluation) is not None:
        scores = Path(given.run_dir) / SCORES
        found = read_json(scores) if scores.is_file() else {}
        settings = decided(given.metrics, [*of.videos.values()])
        real = find_videos(Path(given.reference), "reference") if given.reference else []
        return found if found.get("of") == identity_of(settings, of.videos, real) else None
    (place, *others) = {path.parent.parent for path in of.videos.values()}
    config = None if others else _config(place)
    if isinstance(config, GenerateConfig):
        return kept_scores(config, {path.stem: path for path in of.videos.values()})
    return None


def _row(of: _Set, scores: Mapping[str, Any]) -> Scored:
    """The scores of a set, and what its videos cost."""
    row = Scored(of.name, missing={**scores.get("missing", {})})
    for score in scores["set"]:
        name, own = score["name"], scores["recipes"].get(score["name"])
        alike = own.replace("/n=1", "") if own else score["recipe"]
        row.values[name] = Value(alike=alike, **{key: score[key] for key in KEPT})
    for name in ("seconds", "seconds_total", "peak_gb"):
        found = _cost(name, of.records)
        if isinstance(found, Value):
            row.values[name] = found
        else:
            row.missing[name] = found
    return row


def _cost(name: str, records: Sequence[Mapping[str, Any]]) -> Value | str:
    """The mean seconds or the highest peak of the videos; or why there is none."""
    if not records:
        return "no run made these videos"
    stages = [record["stages"] for record in records]
    devices = " and ".join(sorted({record["device"] for record in records}))
    if name == "peak_gb":
        value = max(stage.get("peak_gb", 0.0) for each in stages for stage in each.values())
        recipe = f"highest of all stages/{devices}"
    elif name == "seconds":
        seconds = [each.get("detail", {}).get("seconds") for each in stages]
        if None in seconds:
            return "a detail stage has no time"
        value, recipe = sum(seconds) / len(seconds), f"mean of the detail stage/{devices}"
    elif any(stage.get("reused") for each in stages for stage in each.values()):
        return "a stage was read from the store"
    else:
        totals = [sum(stage["seconds"] for stage in each.values()) for each in stages]
        value, recipe = sum(totals) / len(totals), f"mean of all stages/{devices}"
    return Value(value, value, value, recipe, recipe, len(records), False)
