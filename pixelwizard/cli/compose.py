"""Hydra: overrides to plain, resolved, checked configurations; its errors become sentences."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

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

from pixelwizard.cli.overrides import HYDRA_PARTS, check_option, checked
from pixelwizard.config import catalog, schema, tasks
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.sweep import Choice, LauncherSettings, Search, Span, SweeperSettings
from pixelwizard.models.checkpoints import own_statistics
from pixelwizard.records.run_folder import config_hash, incidental

PATHS = (
    *("run_dir", "store.dir", "prompts", "backbone.folder", "backbone.anchor", "backbone.detail"),
    *("data.dir", "data.captions", "objective.init_from", "source.folder", "file", "plot"),
    *("out", "runs", "videos", "captions", "reference", "metrics.folder"),
)
"""Keys that hold paths: made absolute, so that a run does not depend on the working directory."""
NAMING = ("bench", "backbone", "resolution", "schedule", "metrics")
"""Groups whose choices name the default run folder, unless an experiment does."""
PENDING = "pending"


class ExperimentsPath(SearchPathPlugin):
    """Lets ``experiments=NAME`` find the shipped compositions and the user's own ones."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for root in catalog.search_roots():
            search_path.append("pixelwizard", f"file://{root}")


@dataclasses.dataclass(frozen=True)
class Job:
    """One checked configuration, and the values of the sweep that are its own.

    ``search``: not this very configuration runs, but others of the space around it.
    """

    config: Any
    swept: tuple[str, ...] = ()
    launcher: LauncherSettings = dataclasses.field(default_factory=LauncherSettings)
    search: Search | None = None


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
        words = checked(task, overrides, sweep)
        if study := _study(task, words, prompts):
            return [study]
        for chosen in _combinations(words):
            if chosen.swept and not sweep:
                raise ConfigError(f"{chosen.swept[0]} is one of several values; -m runs them all")
            composed = _hydra(task, chosen.all)
            own = {override.split("=", 1)[0] for override in chosen.all}
            params = OmegaConf.select(composed, "hydra.sweeper.params") or {}
            more = [f"{key}={value}" for key, value in params.items() if key not in own]
            for inner in _combinations(checked(task, more, sweep=True)):
                final = _hydra(task, inner.all + chosen.all) if more else composed
                swept = (*chosen.swept, *inner.swept)
                jobs.append(Job(_config(final, prompts), swept, _part(final, "launcher")))
    return jobs


def _study(task: str, words: Sequence[str], prompts: Sequence[str]) -> Job | None:
    """What Optuna is to search, if the overrides or an experiment ask for that."""
    if not {word.split("=", 1)[0] for word in words} & {"hydra/sweeper", "experiments"}:
        return None
    parsed = _parsed_all(words)
    fixed = [word for word, one in zip(words, parsed, strict=True) if not one.is_sweep_override()]
    composed = _hydra(task, fixed)
    sweeper: SweeperSettings = _part(composed, "sweeper")
    if sweeper.kind != "optuna":
        return None
    own = {one.get_key_element() for one in parsed}
    more = [f"{key}={value}" for key, value in (sweeper.params or {}).items() if key not in own]
    ranges = [*parsed, *_parsed_all(checked(task, more, sweep=True))]
    space = {r.get_key_element(): _values(r) for r in ranges if r.is_sweep_override()}
    if not space:
        return None  # one of its trials
    search = Search(sweeper, space, tuple(fixed))
    return Job(_config(composed, prompts), (), _part(composed, "launcher"), search)


def _values(override: Override) -> Choice | Span:
    """The values of a swept override as Optuna shall see them."""
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
        return HYDRA_PARTS[name]()
    part: Any = schema.build(HYDRA_PARTS[name], node, f"hydra.{name}")
    part.check()
    return part


@contextmanager
def _composer(task: str) -> Iterator[None]:
    """Hydra over ``conf`` and the defaults of the task's dataclass; its errors as ConfigError."""
    root = tasks.roots()[task]
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
        check_option(task, override)
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
    _take_statistics(values, composed.hydra.overrides.task)
    if "run_dir" not in values:
        return tasks.from_plain(values)
    given = values["run_dir"]
    config = tasks.from_plain({**values, "run_dir": given or PENDING})
    if given:
        return config
    names = [choices["experiments"]] if choices.get("experiments") else []
    naming = [group for group in NAMING if group not in incidental(config.task)]
    names = names or [choices[group] for group in naming if group in choices]
    name = re.sub(r"[^A-Za-z0-9._-]+", "+", "-".join([*names, config_hash(config)]))
    return dataclasses.replace(config, run_dir=str(Path.cwd() / "outputs" / name))


def _take_statistics(values: dict[str, Any], words: Sequence[str]) -> None:
    """Of an autoencoder with statistics in its folder those hold, unless ``words`` name others."""
    backbone = values.get("backbone")
    if not isinstance(backbone, dict) or not isinstance(backbone.get("folder"), str):
        return
    named = {word.split("=", 1)[0].lstrip("+") for word in words}
    if {f"backbone.vae.{name}" for name in ("latent_mean", "latent_std")} <= named:
        return
    try:
        found = own_statistics(Path(backbone["folder"]))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for name, numbers in found.items():
        if f"backbone.vae.{name}" not in named:
            backbone["vae"][name] = numbers


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
    parsed = _parsed_all(overrides)
    lists = []
    for override, text in zip(parsed, overrides, strict=True):
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(
                    f"{text}: only lists of values, range() and glob() can be swept, or"
                    " all of them by hydra/sweeper=optuna"
                )
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


def _parsed_all(overrides: Sequence[str]) -> list[Override]:
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    return [_parsed(parser, text) for text in overrides]


def _parsed(parser: OverridesParser, text: str) -> Override:
    try:
        return parser.parse_overrides([text])[0]
    except HydraException:
        raise ConfigError(
            f"{text}: this value cannot be read; close every bracket and quote, and put the whole"
            " argument into quotes for the shell"
        ) from None


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
