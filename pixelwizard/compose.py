"""Hydra: overrides to plain, resolved, checked configurations; its errors become sentences."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_origin

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pixelwizard import catalog, schema, settings
from pixelwizard.run_folder import config_hash, incidental
from pixelwizard.schema import ConfigError

PATHS = (
    *("run_dir", "store.dir", "prompts", "backbone.folder", "backbone.anchor", "backbone.detail"),
    *("data.dir", "data.captions", "objective.init_from", "source.folder", "file", "plot"),
    *("out", "runs", "videos", "captions", "reference", "metrics.folder"),
)
"""Keys that hold paths: made absolute, so that a run does not depend on the working directory."""
NAMING = ("bench", "backbone", "resolution", "schedule", "metrics")
"""Groups whose choices name the default run folder, unless an experiment does."""
OVERRIDE = re.compile(r"\+{0,2}(?P<key>[^=\s]+)=(?P<value>.*)", re.DOTALL)
SWEPT = re.compile(r",|(range|glob|choice)\(")
PENDING = "pending"


class ExperimentsPath(SearchPathPlugin):
    """Lets ``experiments=NAME`` find the shipped compositions and the user's own ones."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for root in catalog.search_roots():
            search_path.append("pixelwizard", f"file://{root}")


@dataclasses.dataclass(frozen=True)
class Job:
    """One checked configuration, and the values of the sweep that are its own."""

    config: Any
    swept: tuple[str, ...] = ()


def compose(
    task: str, overrides: Sequence[str], prompts: Sequence[str] = (), sweep: bool = False
) -> list[Job]:
    """The jobs that ``overrides`` ask for: one, or one per combination of the swept values.

    Values are swept by the command line (``seed=0,1``, ``range(4)``) or by an experiment file
    (``hydra.sweeper.params``); ``sweep=False`` refuses the former. Every job is checked before the
    first is returned. Raises ConfigError for every mistake of the user.
    """
    jobs = []
    with _composer(task):
        for chosen in _combinations(_checked(task, overrides, sweep)):
            if chosen.swept and not sweep:
                raise ConfigError(f"{chosen.swept[0]} is one of several values; -m runs them all")
            composed = _hydra(task, chosen.all)
            own = {override.split("=", 1)[0] for override in chosen.all}
            params = OmegaConf.select(composed, "hydra.sweeper.params") or {}
            more = [f"{key}={value}" for key, value in params.items() if key not in own]
            for inner in _combinations(_checked(task, more, sweep=True)):
                final = _hydra(task, inner.all + chosen.all) if more else composed
                swept = (*chosen.swept, *inner.swept)
                jobs.append(Job(_config(final, prompts), swept))
    return jobs


@contextmanager
def _composer(task: str) -> Iterator[None]:
    """Hydra over ``conf`` and the defaults of the task's dataclass; its errors as ConfigError."""
    root = settings.roots()[task]
    defaults = {**({"run_dir": None} if has_run_folder(root) else {}), **schema.defaults(root)}
    ConfigStore.instance().store(name=f"{task}_defaults", node=defaults)
    Plugins.instance().register(ExperimentsPath)
    conf = catalog.asset_root("conf") / "conf"
    try:
        with hydra.initialize_config_dir(str(conf), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"a YAML file cannot be read: {_one_line(error)}") from None


def has_run_folder(root: type) -> bool:
    """Whether a task, known by its root dataclass, puts its results into a run folder."""
    return any(field.name == "run_dir" for field in dataclasses.fields(root))


def _hydra(task: str, overrides: Sequence[str]) -> DictConfig:
    for override in overrides:
        _check_option(task, override)
    return hydra.compose(task, list(overrides), return_hydra_config=True)


def _config(composed: DictConfig, prompts: Sequence[str]) -> Any:
    """The root dataclass of what Hydra composed, its paths absolute and its folder named."""
    choices = composed.hydra.runtime.choices
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    values: Any = OmegaConf.to_container(ours, resolve=True)
    if prompts:
        values["prompt"] = list(prompts)
    for key in PATHS:
        if (values["task"], key) != ("compare", "reference"):  # there it is one of the runs
            _make_absolute(values, key)
    if "run_dir" not in values:
        return settings.from_plain(values)
    given = values["run_dir"]
    config = settings.from_plain({**values, "run_dir": given or PENDING})
    if given:
        return config
    names = [choices["experiments"]] if choices.get("experiments") else []
    naming = [group for group in NAMING if group not in incidental(config.task)]
    names = names or [choices[group] for group in naming if group in choices]
    name = re.sub(r"[^A-Za-z0-9._-]+", "+", "-".join([*names, config_hash(config)]))
    return dataclasses.replace(config, run_dir=str(Path.cwd() / "outputs" / name))


def _make_absolute(values: dict[str, Any], key: str) -> None:
    *groups, name = key.split(".")
    for group in groups:
        values = values.get(group, {})
        if not isinstance(values, dict):
            return
    path = values.get(name)
    if isinstance(path, list):
        values[name] = [str(Path.cwd() / Path(str(one)).expanduser()) for one in path]
    elif isinstance(path, str) and path.strip():
        values[name] = str(Path.cwd() / Path(path).expanduser())
    elif path is not None and not isinstance(path, (int, float)):
        raise ConfigError(f"{key} is empty; give a path or leave it out")


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """One combination: every override that holds, and those among them that were swept."""

    all: list[str]
    swept: list[str]


def _combinations(overrides: Sequence[str]) -> list[_Chosen]:
    """Every combination of the swept values, in the order written."""
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    parsed = [_parsed(parser, text) for text in overrides]
    lists = []
    for override, text in zip(parsed, overrides, strict=True):
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(f"{text}: only lists of values, range() and glob() can be swept")
            key = override.get_key_element()
            lists.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            lists.append([text])
    swept = [override.is_sweep_override() for override in parsed]
    return [
        _Chosen(
            list(chosen), [text for text, is_swept in zip(chosen, swept, strict=True) if is_swept]
        )
        for chosen in product(*lists)
    ]


def _parsed(parser: OverridesParser, text: str) -> Override:
    try:
        return parser.parse_overrides([text])[0]
    except HydraException:
        raise ConfigError(
            f"{text}: this value cannot be read; close every bracket and quote, and put the whole"
            " argument into quotes for the shell"
        ) from None


def _checked(task: str, overrides: Sequence[str], sweep: bool) -> list[str]:
    """The overrides as Hydra shall read them: keys that exist, texts quoted."""
    leaves, groups = schema.leaves(settings.roots()[task]), catalog.groups(task)
    return [_checked_one(override, leaves, groups, sweep) for override in overrides]


def _checked_one(override: str, leaves: dict[str, Any], groups: Sequence[str], sweep: bool) -> str:
    if override.startswith("~"):
        raise ConfigError(f"{override}: a key cannot be removed; give it another value")
    match = OVERRIDE.fullmatch(override)
    if match is None:
        raise ConfigError(f"{override!r} is no key=value")
    key, value = match.group("key", "value")
    if key == "task":
        raise ConfigError(f"{override}: the task is the first word, like pixelwizard {value}")
    if key == "hydra" or key.startswith("hydra."):
        raise ConfigError(f"{key} is Hydra's own; use run_dir, sweep_dir, -m and --cfg job instead")
    if key in groups:
        return f"{key}={value}"
    if key in leaves:
        text = _is_text(leaves[key]) and not (sweep and SWEPT.search(value))
        return f"{key}={quoted(value) if text else value}"
    parents = [key[:end] for end, letter in enumerate(key) if letter == "."]
    if any(leaves.get(parent) in (Any, dict[str, Any]) for parent in parents):
        return f"++{key}={value}"
    raise ConfigError(_unknown_key(key, leaves, groups))


def _unknown_key(key: str, leaves: dict[str, Any], groups: Sequence[str]) -> str:
    parent, _, name = key.rpartition(".")
    siblings = [leaf.rpartition(".")[2] for leaf in leaves if leaf.rpartition(".")[0] == parent]
    if not parent:
        siblings = sorted({*siblings, *groups} - {"task"})
    if siblings:
        return schema.unknown(f"key {key!r}", name, siblings, parent)
    return schema.unknown(f"key {key!r}", key, leaves)


def _is_text(hint: Any) -> bool:
    return hint is str or str in get_args(hint) and get_origin(hint) is not list


def quoted(value: str) -> str:
    """A text for Hydra's grammar, whatever its punctuation; one in quotes stays."""
    if value == "null" or re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL):
        return value
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"


def _check_option(task: str, override: str) -> None:
    """Refuse an option that its group does not have, before Hydra does at length."""
    group, value = override.split("=", 1)
    value = value.strip("'\"")
    several = group == "experiments" and (value == "null" or value.startswith("["))
    if group in catalog.groups(task) and not several and value not in catalog.options(group):
        own = f", or a file ./experiments/{value}.yaml" if group == "experiments" else ""
        raise ConfigError(schema.choice(group, value, catalog.options(group)) + own)


def _sentence(error: BaseException) -> str:
    """One line that says what Hydra or OmegaConf could not do, the key first where there is one."""
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None)
    text = _one_line(cause) or _one_line(error)
    if cause is not error and not isinstance(cause, OmegaConfBaseException):
        text = _one_line(error)
    return f"{key}: {text}" if key and str(key) not in text else text


def _one_line(error: BaseException) -> str:
    text = re.split(r"\n\s*(?:full_key|object_type|See https?://)|See https?://", str(error))[0]
    return " ".join(text.split()).rstrip(".")
