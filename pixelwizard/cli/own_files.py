"""The user's configuration files, as Hydra reads them: checked, remembered, named in errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError

GLOBAL = "# @package _global_"


class OwnFiles(SearchPathPlugin):
    """Lets Hydra find the user's files before the shipped ones, and ``experiments`` anywhere.

    ``read`` are the files that were read since the folders were set: their defaults list, and
    their values by full key.
    """

    folders: ClassVar[list[Path]] = []
    read: ClassVar[dict[Path, tuple[str, dict[str, Any]]]] = {}

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(self.folders):
            search_path.prepend("own", f"own://{folder}")
        for root in tasks.experiment_roots():
            search_path.append("experiments", f"{tasks.EXPERIMENTS}://{root}")


def introduce_files(own: list[Path]) -> None:
    """Give Hydra the user's folders. Raises ConfigError for one far too large."""
    tasks.check_sizes(own)
    OwnFiles.folders = own
    OwnFiles.read.clear()
    for plugin in (OwnFiles, *_sources()):
        Plugins.instance().register(plugin)


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
            _check(path)
            result: ConfigResult = super().load_config(config_path)
            _remember(path, Path(config_path).parent.as_posix(), result)
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


def _check(path: Path) -> None:
    """Refuse a file that cannot be read, or has no keys; raises ConfigError.

    Errors of the grammar are left to Hydra.
    """
    try:
        text = tasks.check_yaml(path)
        values = yaml.load(text, tasks.LOADER)
    except yaml.YAMLError:
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if values is not None and not isinstance(values, Mapping):
        kind = "a list" if isinstance(values, list) else "a text"
        raise ConfigError(f"{path} is {kind}; it must have keys, like steps: 4")


def _remember(path: Path, group: str, result: ConfigResult) -> None:
    """Note what a file sets. Raises ConfigError for an experiment without its first line."""
    config, package = result.config, (result.header or {}).get("package")
    if not isinstance(config, DictConfig):
        return
    values = OmegaConf.to_container(config)
    assert isinstance(values, dict)
    defaults = str(values.pop("defaults", ""))
    if group.startswith(tasks.EXPERIMENTS) and values and package is None:
        raise ConfigError(f"{path} has keys, so its first line must be {GLOBAL}; add it")
    prefix = group.replace("/", ".") if package is None else package.replace("_global_", "")
    OwnFiles.read[path] = defaults, dict(_by_key(values, prefix))


def _by_key(values: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The values and groups by full key."""
    for name, value in values.items():
        key = schema.join(prefix, str(name))
        yield key, value
        if isinstance(value, Mapping):
            yield from _by_key(value, key)


def with_file(sentence: str, composed: DictConfig) -> str:
    """A sentence on a key, after the name of the user's file that gave it its value."""
    named: dict[str, Path] = {}
    for path, (_, values) in OwnFiles.read.items():
        for key, value in values.items():
            if re.search(rf"(?<![\w./]){re.escape(key)}(?![\w/]|\.\w)", sentence) and (
                _value(composed, key) == value
            ):
                named[key] = path
    if not named:
        return sentence
    return f"{_shown(named[max(named, key=len)])}: {sentence}"


def with_choosing_file(sentence: str, name: str) -> str:
    """A sentence on a group or an option, after the user's file whose defaults list names it."""
    whole = re.compile(rf"\b{re.escape(name)}\b")
    path = next((path for path, (chosen, _) in OwnFiles.read.items() if whole.search(chosen)), None)
    return sentence if path is None else f"{_shown(path)}: {sentence}"


def _value(composed: DictConfig, key: str) -> Any:
    """The value of a key before interpolation."""
    value: Any = OmegaConf.to_container(composed)
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _shown(path: Path) -> str:
    """The path from here, where it is below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
