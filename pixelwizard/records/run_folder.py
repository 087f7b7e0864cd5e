"""The run folder before the run: its owner, ``config.yaml`` and ``overrides.txt``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pixelwizard.config.schema import ConfigError, differences, is_below, marked, to_plain
from pixelwizard.config.tasks import load
from pixelwizard.io.digests import text_digest
from pixelwizard.io.files import write_text
from pixelwizard.io.reasons import reason
from pixelwizard.records.lock import locked

CONFIG, OVERRIDES, LEDGER = "config.yaml", "overrides.txt", "sweep.json"


def config_hash(config: Any) -> str:
    """Eight hexadecimal digits of everything that determines the results."""
    return short_hash(determining(config))


def determining(config: Any) -> dict[str, Any]:
    """The plain values of a configuration without the incidental ones."""
    values: dict[str, Any] = to_plain(config)
    for key in marked(type(config), "incidental"):
        *groups, name = key.split(".")
        node = values
        for group in groups:
            node = node.get(group, {})
        node.pop(name, None)
    return values


def short_hash(value: Any) -> str:
    """Eight hexadecimal digits of a plain value."""
    return text_digest(json.dumps(value, sort_keys=True, ensure_ascii=False))[:8]


def claim(config: Any, command: Sequence[str]) -> Path:
    """Make the run folder of ``config``, or continue in the one that has the same configuration.

    Raises ConfigError if the folder belongs to another configuration, is in use or cannot be
    written.
    """
    folder = Path(config.run_dir)
    text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=100)
    try:
        with locked(folder, shlex.join(command)):
            _refuse_foreign(config, folder)
            write_text(folder / CONFIG, text)
            write_text(folder / OVERRIDES, shlex.join(command) + "\n")
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be written: {error.strerror}") from None
    return folder


def _refuse_foreign(config: Any, folder: Path) -> None:
    path = folder / CONFIG
    try:
        known = path.exists()
        old = to_plain(load(path)) if known else None
    except OSError as error:
        raise ConfigError(f"run_dir={folder} cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"run_dir={folder} holds a {CONFIG} that this version cannot read ({reason(error)});"
            " choose another folder"
        ) from None
    if old is None:
        return
    differ = differences(old, to_plain(config))
    free = marked(type(config), "incidental")
    differ = [key for key in differ if not is_below(key, free)]
    if differ:
        shown = ", ".join(differ[:5]) + (", ..." if len(differ) > 5 else "")
        raise ConfigError(
            f"run_dir={folder} belongs to another configuration (it differs in {shown});"
            " choose another folder or repeat the same settings"
        )
