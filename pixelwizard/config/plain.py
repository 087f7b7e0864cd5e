"""Plain values from text of any origin: no code, no nesting without end, no alias bomb."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pixelwizard.config.schema import ConfigError

DEEPEST, MOST = 64, 50_000
"""Levels of a file, and values that it may expand to."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The values of a YAML file. Raises OSError without it, ConfigError where it cannot be used."""
    try:
        return yaml.load(check_yaml(path), LOADER)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def check_yaml(path: Path) -> str:
    """The text of a YAML file that is not too large once it is read; errors as of ``read_yaml``.

    Raises YAMLError where it is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    try:
        _check_size(text, path)
    except yaml.YAMLError as error:
        if "maximum nesting depth" not in str(error):  # PyYAML's own bound, from 6.0.4 on
            raise
        raise ConfigError(f"{path} is nested over {DEEPEST} deep; make it flatter") from None
    return text


def parse_json(text: str, what: object) -> Any:
    """The values of a JSON text. Raises ConfigError, naming ``what``, where it cannot be used."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ConfigError(f"{what} is nested over {DEEPEST} deep") from None
    except ValueError:
        raise ConfigError(f"{what} is not JSON") from None
    level = [values]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
    if level:
        raise ConfigError(f"{what} is nested over {DEEPEST} deep")
    return values


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_size(text: str, path: Path) -> None:
    """Count levels and values, those of aliases too, without making them."""
    sizes: dict[str | None, int] = {}
    starts: list[tuple[str | None, int]] = []
    size = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            starts.append((event.anchor, size))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = starts.pop()
            sizes[anchor] = size - start
        elif isinstance(event, yaml.AliasEvent):
            size += sizes.get(event.anchor, MOST)  # one inside its own node has no end
        elif isinstance(event, yaml.ScalarEvent):
            size, sizes[event.anchor] = size + 1, 1
        if len(starts) > DEEPEST:
            raise ConfigError(f"{path} is nested over {DEEPEST} deep; make it flatter")
        if size >= MOST:
            raise ConfigError(f"{path} has over {MOST:,} values, aliases counted; shorten it")
