"""Overrides -> composed jobs, one for every combination of swept values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice, product
from math import prod
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from pixelwizard.cli.composer import Composer, composer, parsed
from pixelwizard.cli.overrides import HYDRA_PARTS, SEARCH_PATH, checked, split_folders
from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.sweep import Choice, LauncherSettings, Search, Span, SweeperSettings

MOST_JOBS = 10_000


@dataclasses.dataclass(frozen=True)
class Composed:
    """One checked configuration, and the values of the sweep that are its own.

    ``search``: not this very configuration runs, but others of the space around it.
    """

    config: Any
    swept: tuple[str, ...] = ()
    launcher: LauncherSettings = dataclasses.field(default_factory=LauncherSettings)
    search: Search | None = None


def compose(
    task: str, overrides: Sequence[str], prompts: Sequence[str] = (), sweep: bool = False
) -> list[Composed]:
    """The jobs of ``overrides``: one, or one per combination of the swept values.

    Values are swept by the command line (``seed=0,1``, ``range(4)``) or by an experiment file
    (``hydra.sweeper.params``); ``sweep=False`` refuses the former. ``hydra.searchpath=[DIR]``, or
    ``--config-dir DIR``, adds a folder laid out like ``conf``. Every job is checked before the
    first is returned, the user's classes too. Raises ConfigError for every mistake of the user.
    """
    jobs = []
    folders, overrides = split_folders(overrides)
    own = tasks.own_folders(folders)
    with composer(task, own) as made:
        words = checked(task, overrides, sweep, own)
        if study := _study(made, words, prompts):
            return [study]
        for chosen in _combinations(words):
            if chosen.swept and not sweep:
                raise ConfigError(f"{chosen.swept[0]} is one of several values; -m runs them all")
            composed = made.compose(chosen.all)
            own_keys = {override.split("=", 1)[0] for override in chosen.all}
            params = OmegaConf.select(composed, "hydra.sweeper.params") or {}
            more = [f"{key}={value}" for key, value in params.items() if key not in own_keys]
            for inner in _combinations(checked(task, more, True, own)):
                final = made.compose(inner.all + chosen.all) if more else composed
                swept = (*chosen.swept, *inner.swept)
                config = made.config(final, prompts)
                jobs.append(Composed(config, swept, _part(final, "launcher")))
    return jobs


def _study(made: Composer, words: Sequence[str], prompts: Sequence[str]) -> Composed | None:
    """The search for Optuna, if the overrides or an experiment ask for one."""
    if not {word.split("=", 1)[0] for word in words} & {"hydra/sweeper", "experiments"}:
        return None
    given = parsed(words)
    fixed = [word for word, one in zip(words, given, strict=True) if not one.is_sweep_override()]
    composed = made.compose(fixed)
    sweeper: SweeperSettings = _part(composed, "sweeper")
    if sweeper.kind != "optuna":
        return None
    own = {one.get_key_element() for one in given}
    more = [f"{key}={value}" for key, value in (sweeper.params or {}).items() if key not in own]
    ranges = [*given, *parsed(checked(made.task, more, True, made.own))]
    space = {r.get_key_element(): _values(r) for r in ranges if r.is_sweep_override()}
    if not space:
        return None  # one of its trials
    folders = [f"{SEARCH_PATH}={folder}" for folder in made.own]
    search = Search(sweeper, space, (*folders, *fixed))
    return Composed(made.config(composed, prompts), (), _part(composed, "launcher"), search)


def _values(override: Override) -> Choice | Span:
    """The values of a swept override in Optuna's form."""
    value: Any = override.value()
    if override.is_range_sweep() and all(isinstance(n, int) for n in (value.start, value.step)):
        return Span(value.start, value.stop - 1, True, value.step)
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return Span(value.start, value.end, whole, log="log" in value.tags)
    return Choice(tuple(override.sweep_string_iterator()))


def _part(composed: DictConfig, name: str) -> Any:
    """Hydra's launcher or sweeper as our settings; Hydra's own basic ones are our defaults."""
    node = OmegaConf.to_container(composed.hydra[name], resolve=True)
    assert isinstance(node, dict)
    if "_target_" in node:
        for key in sorted(schema.leaves(HYDRA_PARTS[name]).keys() & node.keys() - {"params"}):
            other = {"launcher": "joblib or submitit_slurm", "sweeper": "optuna"}[name]
            raise ConfigError(f"hydra.{name}.{key} is for hydra/{name}={other}; add that one")
        return HYDRA_PARTS[name]()
    part: Any = schema.build(HYDRA_PARTS[name], node, f"hydra.{name}")
    schema.check(part, f"hydra.{name}")
    return part


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """One combination: every override that holds, and those among them that were swept."""

    all: list[str]
    swept: list[str]


def _combinations(overrides: Sequence[str]) -> list[_Chosen]:
    """Every combination of the swept values, in the order written."""
    given = parsed(overrides)
    lists = []
    for override, text in zip(given, overrides, strict=True):
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(
                    f"{text}: only lists of values, range() and glob() can be swept, or"
                    " all of them by hydra/sweeper=optuna"
                )
            key = override.get_key_element()
            values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
            if not values:
                raise ConfigError(f"{text} has no value; list them, like {key}=A,B")
            lists.append([f"{key}={value}" for value in values])
        else:
            lists.append([text])
    if prod(map(len, lists)) > MOST_JOBS:
        raise ConfigError(f"a sweep has at most {MOST_JOBS:,} jobs; sweep fewer values")
    swept = [override.is_sweep_override() for override in given]
    return [
        _Chosen(
            list(chosen), [text for text, is_swept in zip(chosen, swept, strict=True) if is_swept]
        )
        for chosen in product(*lists)
    ]
