"""The user's configuration files that Hydra reads: checked, remembered, named in Hydra's errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pixelwizard.cli import arguments
from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError, choice

GLOBAL = "# @package _global_"
READ: dict[Path, tuple[str, dict[str, Any]]] = {}
"""The files of this composition: the defaults list of each, and its values by full key."""


def check_file(path: Path) -> None:
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


def remember(path: Path, group: str, result: ConfigResult) -> None:
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
    READ[path] = defaults, dict(_by_key(values, prefix))


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
    for path, (_, values) in READ.items():
        for key, value in values.items():
            if re.search(rf"(?<![\w./]){re.escape(key)}(?![\w/]|\.\w)", sentence) and (
                _value(composed, key) == value
            ):
                named[key] = path
    if not named:
        return sentence
    return f"{_shown(named[max(named, key=len)])}: {sentence}"


def _with_choosing_file(sentence: str, name: str) -> str:
    """A sentence on a group or an option, after the user's file whose defaults list names it."""
    whole = re.compile(rf"\b{re.escape(name)}\b")
    path = next((path for path, (chosen, _) in READ.items() if whole.search(chosen)), None)
    return sentence if path is None else f"{_shown(path)}: {sentence}"


def refusal(error: BaseException, task: str, own: Sequence[Path]) -> str:
    """What Hydra or OmegaConf refused, in one sentence with the user's file where one is meant."""
    return _of_choices(task, str(error), own) or sentence(error)


def _of_choices(task: str, said: str, own: Sequence[Path]) -> str | None:
    """The sentence on a choice in a file that Hydra refuses; None for other errors."""
    if elsewhere := arguments.group_elsewhere(task, said):
        return elsewhere
    if missing := re.search(r"Could not (?:find|load) '(\S+)/([^'/]+)'", said):
        group, option = missing.groups()
        return _with_choosing_file(choice(group, option, tasks.options(group, own)), option)
    if twice := re.match(r"Multiple values for (\w+)\.", said):
        return _with_choosing_file(one_line(ValueError(said)), twice[1])
    return None


def sentence(error: BaseException) -> str:
    """One line that says what Hydra or OmegaConf could not do, the key first where there is one."""
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None)
    told = cause if isinstance(cause, OmegaConfBaseException) else error
    text = one_line(told) or one_line(error)
    return f"{key}: {text}" if key and str(key) not in text else text


def one_line(error: BaseException) -> str:
    """What an error of Hydra, OmegaConf or YAML says, without where it says more."""
    text = re.split(r"\n\s*(?:full_key|object_type|See https?://)|See https?://", str(error))[0]
    return " ".join(text.split()).rstrip(".")


def _value(composed: DictConfig, key: str) -> Any:
    """The value of a key before interpolation."""
    value: Any = OmegaConf.to_container(composed)
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _shown(path: Path) -> str:
    """The path from here, where it is below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
