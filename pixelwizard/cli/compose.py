"""Hydra: overrides -> composed, checked jobs, one for every combination of swept values."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pixelwizard.cli import arguments, own_files
from pixelwizard.cli.habits import HABITS, habit
from pixelwizard.config import schema, tasks
from pixelwizard.config.generate import RunSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.sweep import Composed, Search, Span, SweeperSettings
from pixelwizard.config.targets import TARGET, OwnPart, check_doors, search_in, targets
from pixelwizard.models.checkpoints import take_few_steps, take_statistics
from pixelwizard.records.run_folder import default_run_dir

MOST_JOBS = 10_000
OURS = (
    *("hydra.launcher", "hydra.sweeper", "hydra.overrides", "hydra.runtime", "hydra.searchpath"),
    *("hydra.job.override_dirname", "hydra.mode"),
)
"""The keys of Hydra's own configuration that a composition may change."""
BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Hydra 1.3 must be told to behave like 1.3; later versions need no ``version_base``."""


@contextmanager
def composer(task: str, own: list[Path]) -> Iterator[Composer]:
    """Hydra over the user's folders, ``conf`` and the defaults of the task's dataclass.

    Errors of Hydra become ConfigError.
    """
    introduce(task, own)
    try:
        with hydra.initialize_config_dir(str(tasks.shipped()), **BASE):
            yield Composer(task, own)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(own_files.refusal(error, task, own)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"a YAML file cannot be read: {own_files.one_line(error)}") from None
    except RecursionError:
        raise ConfigError("a YAML file is nested too deep; make it flatter") from None


def introduce(task: str, own: list[Path]) -> None:
    """Give Hydra the defaults of a task and the user's folders. Raises ConfigError."""
    root = tasks.ROOTS[task]
    hints, defaults = schema.leaves(root), schema.defaults(root)
    if issubclass(root, RunSettings):
        defaults = {"run_dir": None, **defaults}
    for name in [*defaults]:
        if isinstance(hints[name], type) and issubclass(hints[name], OwnPart):
            del defaults[name]  # it would be arguments of a user's class
    store, name = ConfigStore.instance(), f"{task}_defaults"
    store.repo.pop(f"{name}.yaml", None)  # Hydra 1.4 warns of a second one
    store.store(name=name, node=defaults)
    tasks.check_sizes(own)
    OwnFiles.folders = own
    own_files.READ.clear()
    for plugin in (OwnFiles, *_sources()):
        Plugins.instance().register(plugin)


class OwnFiles(SearchPathPlugin):
    """Lets Hydra find the user's files before the shipped ones, and ``experiments`` anywhere."""

    folders: ClassVar[list[Path]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(self.folders):
            search_path.prepend("own", f"own://{folder}")
        for root in tasks.experiment_roots():
            search_path.append("experiments", f"{tasks.EXPERIMENTS}://{root}")


@cache
def _sources() -> tuple[type[ConfigSource], type[ConfigSource]]:
    """Hydra's source of files with checks; and that of which it sees nothing but ``experiments``.

    The folder beside them is the user's: in it ``data`` or ``prompts`` are no config groups.
    """
    found: list[Any] = Plugins.instance().discover(ConfigSource)
    (files,) = (source for source in found if source.scheme() == "file")

    class OwnSource(files):  # type: ignore[misc, valid-type]
        @staticmethod
        def scheme() -> str:
            return "own"

        def load_config(self, config_path: str) -> ConfigResult:
            path = Path(self.path, self._normalize_file_name(config_path))
            own_files.check_file(path)
            result: ConfigResult = super().load_config(config_path)
            own_files.remember(path, Path(config_path).parent.as_posix(), result)
            return result

    class ExperimentSource(OwnSource):
        @staticmethod
        def scheme() -> str:
            return tasks.EXPERIMENTS

        def is_group(self, config_path: str) -> bool:
            return _is_experiment(config_path) and bool(super().is_group(config_path))

        def is_config(self, config_path: str) -> bool:
            return _is_experiment(config_path) and bool(super().is_config(config_path))

    return OwnSource, ExperimentSource


def _is_experiment(path: str) -> bool:
    return path.partition("/")[0] in ("", tasks.EXPERIMENTS)


@dataclasses.dataclass(frozen=True)
class Composer:
    """Hydra for one task, with the user's configuration folders."""

    task: str
    own: list[Path]
    _composed_once: dict[tuple[str, ...], DictConfig] = dataclasses.field(default_factory=dict)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The composition of checked overrides; a user's nodes replace earlier values."""
        nodes = [word for word in overrides if arguments.sets_part(self.task, word, self.own)]
        files = [word for word in overrides if arguments.is_file_of_group(word)]
        options = [word for word in overrides if word not in (*nodes, *files)]
        for option in options:
            arguments.check_option(self.task, option, self.own)
        words = [self._of_group(option) for option in options]
        composed = self._with_values([*words, *self._left_out(words, nodes)])
        if self.own or composed.hydra.runtime.choices.get(tasks.EXPERIMENTS):
            self._refuse_hydras_own(composed)
        for node in parsed(nodes):
            OmegaConf.update(composed, node.key_or_group, node.value(), merge=False, force_add=True)
        for group, path in (word.split("=", 1) for word in files):
            OmegaConf.update(composed, group, _read(Path(path)), merge=False)
        return composed

    def _refuse_hydras_own(self, composed: DictConfig) -> None:
        """Refuse keys of Hydra in a user's file that only Hydra's own launch would apply."""
        before, after = (OmegaConf.to_container(c.hydra) for c in (self._of_groups(()), composed))
        for key in schema.differences(before, after, "hydra"):
            if not schema.is_below(key, OURS):
                own = arguments.RENAMED.get(key)
                rule = f"give {own} on the command line" if own else "leave it out"
                raise ConfigError(habit(key) or f"{key} in a file has no effect; {rule}")

    def _with_values(self, words: Sequence[str]) -> DictConfig:
        """What Hydra composes of the words; those that choose no option are set afterwards."""
        groups = (*tasks.groups(self.task, self.own), *arguments.HYDRA_GROUPS)
        options = [word for word in words if word.split("=", 1)[0].lstrip("+~") in groups]
        values = [word for word in words if word not in options]
        composed = copy.deepcopy(self._of_groups(tuple(options)))
        for one in parsed(values):
            OmegaConf.update(composed, one.key_or_group, one.value(), force_add=one.is_force_add())
        composed.hydra.overrides.task.extend(values)
        return composed

    def _of_groups(self, options: tuple[str, ...]) -> DictConfig:
        """The composition of chosen options, read and merged once for all jobs that share them."""
        if options not in self._composed_once:
            composed = hydra.compose(self.task, list(options), return_hydra_config=True)
            self._composed_once[options] = composed
        return self._composed_once[options]

    def _of_group(self, override: str) -> str:
        """The selection of a user's own group, added to the task's defaults."""
        group = override.split("=", 1)[0]
        mine = group in tasks.groups(self.task, self.own) and group not in self._composed
        return f"+{override}" if mine else override

    def _left_out(self, words: Sequence[str], nodes: Sequence[str]) -> list[str]:
        """The choices without the default option of a group that a user's class replaces."""
        chosen = {word.split("=", 1)[0] for word in words}
        named = {_replaced_key(node) for node in nodes if TARGET in node}
        return [f"~{group}" for group in self._composed if group in named - chosen]

    @cached_property
    def _composed(self) -> list[str]:
        """The groups in the task's defaults list."""
        text = tasks.shipped().joinpath(f"{self.task}.yaml").read_text(encoding="utf-8")
        listed = yaml.safe_load(text)["defaults"]
        return [name for item in listed if isinstance(item, dict) for name in item]

    def config(self, composed: DictConfig, prompts: Sequence[str]) -> Any:
        """The checked settings of what Hydra composed; an error names the user's file."""
        try:
            return self._config(composed, prompts)
        except OmegaConfBaseException as error:
            raise ConfigError(own_files.with_file(own_files.sentence(error), composed)) from None
        except ConfigError as error:
            key = re.match("unknown key '([^']+)'", str(error))
            known = key and (
                habit(key[1]) if key[1] in HABITS else arguments.elsewhere(self.task, key[1])
            )
            raise ConfigError(own_files.with_file(known or str(error), composed)) from error

    def _config(self, composed: DictConfig, prompts: Sequence[str]) -> Any:
        """The checked settings: paths absolute, the run folder named."""
        choices = composed.hydra.runtime.choices
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        values: Any = OmegaConf.to_container(ours, resolve=True)
        if prompts:
            values["prompt"] = list(prompts)
        schema.make_paths_absolute(values, tasks.ROOTS[self.task])
        take_statistics(values, composed.hydra.overrides.task)
        if self.task != "train":
            take_few_steps(values, composed.hydra.overrides.task)
        if "run_dir" not in values:
            return self._with_targets(tasks.from_plain(values))
        given = values["run_dir"]
        values["replaced"] = tasks.replacements(choices, self.own)
        config = self._with_targets(tasks.from_plain({**values, "run_dir": given or "pending"}))
        if given:
            return config
        return dataclasses.replace(config, run_dir=default_run_dir(config, choices))

    def _with_targets(self, config: Any) -> Any:
        """The configuration with the folders of the user's classes, which are checked."""
        if targets(config):
            around = [folder for own in self.own for folder in (own, own.parent)]
            search = list(dict.fromkeys(map(str, (Path.cwd(), *around))))
            search_in(search)
            if isinstance(config, RunSettings):
                config = dataclasses.replace(config, search=search)
        check_doors(config)
        return config


def _read(path: Path) -> Any:
    try:
        return tasks.read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Overrides by Hydra's grammar; one that breaks it raises ConfigError."""
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    found = []
    for text in overrides:
        try:
            found += parser.parse_overrides([text])
        except (HydraException, RecursionError, ValueError):  # a number of 5,000 digits
            raise ConfigError(
                f"{text}: this value cannot be read; close every bracket and quote, and put the"
                " whole argument into quotes for the shell"
            ) from None
    return found


def compose(
    task: str, overrides: Sequence[str], prompts: Sequence[str] = (), sweep: bool = False
) -> list[Composed]:
    """The jobs of ``overrides``: one, or one per combination of the swept values.

    Values are swept by the command line (``seed=0,1``, ``range(4)``) or by an experiment file
    (``hydra.sweeper.params``); ``sweep=False`` refuses the former. ``hydra.searchpath=[DIR]``, or
    ``--config-dir DIR``, adds a folder laid out like ``conf``. Every job is checked before the
    first is returned, the user's classes too. Raises ConfigError for every user error.
    """
    jobs = []
    folders, overrides = arguments.split_folders(overrides)
    own = tasks.own_folders(folders)
    with composer(task, own) as made:
        words = arguments.checked(task, overrides, sweep, own)
        if study := _study(made, words, prompts, sweep):
            return [study]
        for chosen, several in _combinations(words):
            if several and not sweep:
                raise ConfigError(f"{several[0]} is one of several values; -m runs them all")
            composed = made.compose(chosen)
            given = {_replaced_key(override): override for override in chosen}
            params = OmegaConf.select(composed, "hydra.sweeper.params") or {}
            more = [f"{key}={value}" for key, value in params.items() if key not in given]
            for inner, params_swept in _combinations(arguments.checked(task, more, True, own)):
                final = made.compose(inner + chosen) if more else composed
                swept = (*several, *params_swept)
                if swept or sweep:  # one value in place of the experiment's several names a job too
                    single = [given[key] for key in params if key in given]
                    swept = (*swept, *(word for word in single if word not in swept))
                config = made.config(final, prompts)
                jobs.append(Composed(config, swept, _part(final, "launcher")))
    return jobs


def _replaced_key(override: str) -> str:
    """The key whose value an override replaces: a class replaces that of its group."""
    return override.split("=", 1)[0].removesuffix(f".{TARGET}")


def _study(
    made: Composer, words: Sequence[str], prompts: Sequence[str], sweep: bool
) -> Composed | None:
    """The search for Optuna, if the overrides or an experiment ask for one.

    Raises ConfigError for a ``sweep`` with nothing to search.
    """
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
    ranges = [*given, *parsed(arguments.checked(made.task, more, True, made.own))]
    space = {r.get_key_element(): _values(r) for r in ranges if r.is_sweep_override()}
    if not space and sweep:
        raise ConfigError(
            "hydra/sweeper=optuna has nothing to search; give ranges or lists of values, like"
            " schedule.steps=range(2,9)"
        )
    if not space:
        return None  # one of its trials
    folders = [f"{arguments.SEARCH_PATH}={folder}" for folder in made.own]
    search = Search(sweeper, space, (*folders, *fixed))
    return Composed(made.config(composed, prompts), (), _part(composed, "launcher"), search)


def _values(override: Override) -> tuple[str, ...] | Span:
    """The values of a swept override in Optuna's form."""
    value: Any = override.value()
    if override.is_range_sweep() and all(isinstance(n, int) for n in (value.start, value.step)):
        return Span(value.start, value.stop - 1, True, value.step)
    if override.is_interval_sweep():
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return Span(value.start, value.end, whole, log="log" in value.tags)
    return tuple(override.sweep_string_iterator())


def _part(composed: DictConfig, name: str) -> Any:
    """Hydra's launcher or sweeper as our settings; Hydra's own basic ones are our defaults."""
    node: Any = OmegaConf.to_container(composed.hydra[name], resolve=True)
    settings = arguments.HYDRA_PARTS[name]
    if "_target_" in node:
        for key in sorted(schema.leaves(settings).keys() & node.keys() - {"params"}):
            other = {"launcher": "joblib or submitit_slurm", "sweeper": "optuna"}[name]
            raise ConfigError(f"hydra.{name}.{key} is for hydra/{name}={other}; add that one")
        return settings()
    part: Any = schema.build(settings, node, f"hydra.{name}")
    schema.check(part, f"hydra.{name}")
    return part


def _combinations(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Every combination of the swept values, in the order written, and its swept overrides."""
    given = parsed(overrides)
    lists, sweeps = [], [override.is_sweep_override() for override in given]
    for override, text, swept in zip(given, overrides, sweeps, strict=True):
        if swept:
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
    return [
        (list(chosen), [word for word, swept in zip(chosen, sweeps, strict=True) if swept])
        for chosen in product(*lists)
    ]
