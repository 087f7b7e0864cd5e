"""Run folders and sweeps -> variants: videos by prompt and seed. No torch.

Runs that differ only in prompts and seed are one variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path
from typing import Any

import yaml

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.schema import ConfigError, marked
from pixelwizard.config.tasks import load
from pixelwizard.io.files import content_digest, read_json
from pixelwizard.io.terminal import reason
from pixelwizard.records.run_folder import CONFIG, LEDGER, SCORES, STATUS, determining, short_hash

DONE = "done"
OWN = marked(GenerateConfig, "of_sample")
"""Keys that tell runs of a variant apart, and not variants."""
SAMPLERS = {"anchor": "anchor", "detail": "schedule"}
"""Stages that sample, and the keys of their settings."""
NEEDED = ("prompt", "seed", "weights", "device", "detail", "stages", "config")
"""What is read of the record of a video."""


@dataclass(frozen=True, order=True)
class Sample:
    """What runs are joined by: the same text, the same noise and the same ``source``.

    That is the sha256 of the clip or the picture that a video is made of.
    """

    prompt: str
    seed: int
    source: str = ""


@dataclass(frozen=True)
class Video:
    """A finished video, its record, and the store of its run."""

    path: Path
    record: Mapping[str, Any]
    store: Path


@dataclass
class Variant:
    """One way of sampling; ``directions``: score -> whether more of it is better."""

    name: str
    settings: dict[str, Any]
    videos: dict[Sample, Video] = field(default_factory=dict)
    directions: dict[str, bool] = field(default_factory=dict)

    def sampler(self, stage: str) -> dict[str, Any]:
        """The settings of the anchor or the detail stage's sampler."""
        return self.settings[SAMPLERS[stage]]

    def steps(self, stage: str) -> int:
        """How many steps that stage has."""
        sampler = self.sampler(stage)
        return len(sampler.get("timesteps") or range(sampler["steps"]))

    @property
    def size(self) -> str:
        """The size of its videos, as a sentence has it."""
        size = self.settings.get("resolution", {})
        shown = [size.get(name, "?") for name in ("width", "height", "frames")]
        return "{}x{} with {} frames".format(*shown)

    @property
    def trained(self) -> tuple[str, ...]:
        """What tells trainings apart: the digests of both stages' weights."""
        weights = self.settings.get("weights", {})
        return tuple(weights.get(part, "") for part in ("anchor", "detail"))


@dataclass(frozen=True)
class _Run:
    folder: Path
    label: str
    begun: bool = True


def read_variants(
    folders: Sequence[Path], unfinished: bool = False
) -> tuple[list[Variant], list[str]]:
    """The variants in the order they appear, and a sentence about everything that is not there.

    With ``unfinished`` those without a video too, after the others. Raises ConfigError for a folder
    that is neither a sweep nor a run of ``generate``.
    """
    variants: dict[str, Variant] = {}
    notes: list[str] = []
    finished: set[str] = set()
    runs = [run for folder in folders for run in _runs(folder, notes)]
    for run in filter(lambda run: run.begun, runs):
        config = _config(run.folder)
        base = {k: v for k, v in determining(config).items() if k not in OWN}
        for video in _videos(run, config, notes):
            finished.add(run.label)
            weights = video.record["weights"]
            key = short_hash([base, weights])
            variant = variants.setdefault(key, Variant(run.label, {**base, "weights": weights}))
            variant.directions |= _directions(run.folder)
            source = video.record.get("source", {}).get("sha256", "")
            sample = Sample(video.record["prompt"], video.record["seed"], source)
            variant.videos.setdefault(sample, video)
    if unfinished:
        labels = dict.fromkeys(run.label for run in runs if run.label not in finished)
        variants |= {label: Variant(label, {}) for label in labels}
    _name_apart(variants)
    return list(variants.values()), notes


def _runs(folder: Path, notes: list[str]) -> Iterator[_Run]:
    """The runs of a sweep, or the one run."""
    ledger = folder / LEDGER
    if not ledger.is_file():
        yield _Run(folder, folder.name)
        return
    jobs = read_json(ledger).get("jobs")
    if not isinstance(jobs, dict) or not all(
        isinstance(s, dict) and "status" in s for s in jobs.values()
    ):
        raise ConfigError(f"{ledger} is damaged: it lists no jobs; remove it, run its sweep again")
    for name, state in jobs.items():
        if state["status"] != DONE:
            why = f" ({state['reason']})" if "reason" in state else ""
            notes.append(f"{name} is {state['status']}{why}; only its finished videos are compared")
        label = _label(name, state.get("overrides", []))
        yield _Run(folder / name, label, (folder / name / CONFIG).is_file())


def _label(name: str, overrides: Sequence[str]) -> str:
    """The values of a job that are not those of its prompts; its name if there are no others."""
    telling = [text for text in overrides if text.split("=", 1)[0] not in OWN]
    return ",".join(telling) or name


def read_config(folder: Path) -> Any:
    """What a run folder says of itself; None where it says nothing. Raises ConfigError."""
    file = folder / CONFIG
    try:
        return load(file) if file.is_file() else None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {reason(error)}") from None


def _config(folder: Path) -> GenerateConfig:
    config = read_config(folder)
    if not isinstance(config, GenerateConfig):
        raise ConfigError(
            f"{folder} is neither a sweep nor a run folder of generate; name one of these"
        )
    return config


def _videos(run: _Run, config: GenerateConfig, notes: list[str]) -> Iterator[Video]:
    """The finished videos of a run that are as they were written; the others are noted."""
    try:
        states = read_json(run.folder / STATUS)
        if not all(isinstance(state, dict) for state in states.values()):
            raise ConfigError(f"{run.folder / STATUS} is damaged; repeat its run")
    except OSError:
        states = {}
        notes.append(f"{run.folder.name} has not started")
    except ConfigError as error:
        states = {}
        notes.append(f"{run.folder.name} is left out: {error}")
    for id, state in states.items():
        path = run.folder / "videos" / f"{id}{config.video.suffix}"
        if state.get("state") != DONE:
            notes.append(f"{run.folder.name} has no video {id}: {state.get('why', 'not made yet')}")
            continue
        try:
            yield Video(path, _record(path), Path(config.store.dir))
        except OSError as error:
            notes.append(f"{run.folder.name} lacks its video {id}: {reason(error)}")
        except ConfigError as error:
            notes.append(f"{run.folder.name} has no video {id}: {error}")


def _record(video: Path) -> dict[str, Any]:
    """The record of a video. Raises ConfigError if the record or the video is damaged."""
    file = video.with_suffix(".json")
    record = read_json(file)
    if missing := [name for name in NEEDED if name not in record]:
        raise ConfigError(f"{file} is damaged: it lacks {', '.join(missing)}")
    found = content_digest(video)
    if found != record.get("files", {}).get(video.name, found):  # older records have no hashes
        raise ConfigError(f"{video} is not the file that was written; repeat its run")
    return record


def _directions(folder: Path) -> dict[str, bool]:
    """Whether more is better, by score, as the run's own scores say; empty if they are damaged."""
    try:
        scores = read_json(folder / SCORES)["set"]
        return {score["name"]: score["higher_is_better"] for score in scores}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _name_apart(variants: Mapping[str, Variant]) -> None:
    """``schedule=a`` becomes ``a`` where all say schedule; equal names get their hash.

    Of paths, like those of trained weights, only the folders stay that differ.
    """
    _shorten_paths(list(variants.values()))
    pairs = [variant.name.split("=", 1) for variant in variants.values()]
    if len(variants) > 1 and len({pair[0] for pair in pairs}) == 1:
        if all(len(pair) == 2 and "," not in pair[1] for pair in pairs):
            for variant, pair in zip(variants.values(), pairs, strict=True):
                variant.name = pair[1]
    names = [variant.name for variant in variants.values()]
    for key, variant in variants.items():
        if names.count(variant.name) > 1:
            variant.name = f"{variant.name}-{key}"


def _shorten_paths(variants: Sequence[Variant]) -> None:
    """``backbone.detail=runs/a/export/model.pt`` is ``backbone.detail=a`` beside ``runs/b/...``."""
    words = [variant.name.split(",") for variant in variants]
    paths: dict[str, set[tuple[str, ...]]] = {}
    for key, value in (word.split("=", 1) for row in words for word in row if "=" in word):
        paths.setdefault(key, set()).add(Path(value).parts)
    shared = {key: _shared(found) for key, found in paths.items() if max(map(len, found)) > 1}
    for variant, row in zip(variants, words, strict=True):
        variant.name = ",".join(_shortened(word, shared) for word in row)


def _shared(paths: Set[tuple[str, ...]]) -> tuple[int, int]:
    """How many folders all paths begin with, and end with; of one path all but its name."""
    if len(paths) == 1:
        return len(next(iter(paths))) - 1, 0
    least = min(map(len, paths)) - 1
    first = len(commonprefix([list(path) for path in paths]))
    last = len(commonprefix([list(reversed(path)) for path in paths]))
    first = min(first, least)
    return first, min(last, least - first)


def _shortened(word: str, shared: Mapping[str, tuple[int, int]]) -> str:
    key, _, value = word.partition("=")
    if key not in shared:
        return word
    parts, (first, last) = Path(value).parts, shared[key]
    return f"{key}={'/'.join(parts[first : len(parts) - last])}"
