"""Shell completion of the last word of a command line. Imports no Hydra, so it is quick."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from pixelwizard.cli.arguments import (
    CFG,
    HYDRA_GROUPS,
    HYDRA_PARTS,
    INFO,
    OPTIONS,
    SHORT,
    part_names,
)
from pixelwizard.cli.tasks import DEFAULT_TASK, TASKS
from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError

AFTER = {"--cfg": CFG, "--info": INFO}


def complete(line: str) -> list[str]:
    """Candidates for the last word of ``line``, which begins with the program's name."""
    words = [SHORT.get(word, word) for word in line.split()[1:]]
    last = "" if line.endswith(" ") or not words else words.pop()
    task = words[0] if words and words[0] in TASKS else DEFAULT_TASK
    folders = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--config-dir"]
    try:
        own = tasks.own_folders(folders)
    except ConfigError:
        own = []
    key, is_assignment, _ = last.partition("=")
    found: Iterable[str]
    if words and words[-1] in AFTER:
        found = AFTER[words[-1]]
    elif last.startswith("-"):
        found = OPTIONS
    elif is_assignment:
        found = (f"{key}={value}" for value in _values(task, key, own))
    else:
        found = (*_keys(task, own, last.count(".")), *([] if words else TASKS))
    return sorted({word for word in found if word.startswith(last)})


def _values(task: str, key: str, own: Sequence[Path]) -> Sequence[str]:
    """The options of a group, or the values of a key that has few."""
    group = tasks.EXPERIMENTS if key == "experiment" else key
    if group in (*tasks.groups(task, own), *HYDRA_GROUPS):
        return tasks.options(group, own)
    if names := part_names(task, key):
        return names
    hint = _leaves(task).get(key)
    if hint is bool:
        return ("true", "false")
    return [str(value) for value in get_args(hint)] if get_origin(hint) is Literal else ()


def _keys(task: str, own: Sequence[Path], dots: int) -> Iterator[str]:
    """Groups and keys as far as the next dot: ``schedule=``, ``schedule.``, ``schedule.steps=``."""
    yield from (f"{group}=" for group in (*tasks.groups(task, own), *HYDRA_GROUPS))
    for key, hint in _leaves(task).items():
        *parents, name = key.split(".")
        if len(parents) == dots:
            yield f"{key}." if dataclasses.is_dataclass(hint) else f"{key}="


def _leaves(task: str) -> dict[str, object]:
    found = schema.leaves(tasks.ROOTS[task])
    for part, settings in HYDRA_PARTS.items():
        found |= {f"hydra.{part}.{name}": hint for name, hint in schema.leaves(settings).items()}
    return found
