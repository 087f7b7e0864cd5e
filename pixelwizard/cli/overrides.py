"""Overrides before Hydra reads them: keys are checked, texts quoted, mistakes explained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, get_args, get_origin

from pixelwizard.cli.habits import HABITS, habit
from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.sweep import LauncherSettings, SweeperSettings

OVERRIDE = re.compile(r"\+{0,2}(?P<key>[^=\s]+)=(?P<value>.*)", re.DOTALL)
SWEPT = re.compile(r",|(range|glob|choice)\(")
SEARCH_PATH = "hydra.searchpath"
HYDRA_PARTS: dict[str, type] = {"launcher": LauncherSettings, "sweeper": SweeperSettings}
HYDRA_GROUPS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler")
"""What of Hydra's own can be chosen: where the jobs of a sweep run, and who chooses them."""


def split_folders(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders of ``hydra.searchpath=DIR`` or ``=[DIR,...]``, and the other overrides."""
    words = [word for word in overrides if word.startswith(f"{SEARCH_PATH}=")]
    values = [word.split("=", 1)[1] for word in words]
    lists = [v[1:-1].split(",") if re.fullmatch(r"\[.*\]", v) else [v] for v in values]
    folders = [one.strip(" '\"").removeprefix("file://") for several in lists for one in several]
    return folders, [word for word in overrides if word not in words]


def checked(
    task: str, overrides: Sequence[str], sweep: bool, own: Sequence[Path] = ()
) -> list[str]:
    """The overrides for Hydra: keys checked, texts quoted.

    ``own`` are the user's configuration folders, which may bring groups.
    """
    return [_checked_one(override, task, own, sweep) for override in overrides]


def _checked_one(override: str, task: str, own: Sequence[Path], sweep: bool) -> str:
    leaves, groups = schema.leaves(tasks.roots()[task]), tasks.groups(task, own)
    if override.startswith("~"):
        raise ConfigError(f"{override}: a key cannot be removed; give it another value")
    match = OVERRIDE.fullmatch(override)
    if match is None:
        raise ConfigError(f"{override!r} is not key=value")
    key, value = match.group("key", "value")
    if key == "task":
        raise ConfigError(f"{override}: the task is the first word, like pixelwizard {value}")
    if key in HYDRA_GROUPS:
        return f"{key}={value}"
    if re.match(r"hydra\b", key):
        return _of_sweep(key, value)
    key = tasks.EXPERIMENTS if key == "experiment" else key
    node = value.lstrip().startswith("{")
    if key in groups and not node:
        return f"{key}={value}"
    if key in HABITS and not (key in leaves and value.lstrip().startswith(("{", "["))):
        raise ConfigError(habit(key))
    if key in leaves:
        free = node and schema.takes_node(leaves[key]) or sweep and SWEPT.search(value)
        return f"{key}={quoted(value) if _is_text(leaves[key]) and not free else value}"
    if any(schema.takes_node(leaves.get(parent)) for parent in _parents(key)):
        return f"{key}={value}"
    raise ConfigError(_elsewhere(task, key) or habit(key) or _unknown_key(key, leaves, groups))


def _parents(key: str) -> list[str]:
    """The keys of the groups that a key lies in."""
    return [key[:end] for end, letter in enumerate(key) if letter == "."]


def fills_node(task: str, override: str) -> bool:
    """Whether a checked override gives a node to a key that takes one, or a key below such a one.

    Hydra would merge it into what the node was before.
    """
    leaves = schema.leaves(tasks.roots()[task])
    key, value = override.split("=", 1)
    keys = [*_parents(key), *([key] if value.lstrip().startswith("{") else [])]
    return any(schema.takes_node(leaves.get(key)) for key in keys)


def _of_sweep(key: str, value: str) -> str:
    """A setting of the launcher or the sweeper; everything else is Hydra's own."""
    group, _, name = key.removeprefix("hydra.").partition(".")
    known = schema.leaves(HYDRA_PARTS[group]) if group in HYDRA_PARTS else {}
    if name.split(".")[0] not in known and (answer := habit(key)):
        raise ConfigError(answer)
    if group not in HYDRA_PARTS:
        raise ConfigError(
            f"{key} is Hydra's own; use run_dir, sweep_dir, -m, --cfg job, hydra/launcher and"
            " hydra/sweeper instead"
        )
    if name.split(".")[0] not in known:
        raise ConfigError(schema.unknown(f"key {key!r}", name, known, f"hydra.{group}"))
    if known.get(name) in (str, Optional[str]):
        value = quoted(value)
    return f"++{key}={value}"


def _elsewhere(task: str, key: str) -> str | None:
    """The sentence on a key that other tasks have, or that lies deeper in this one."""
    roots = {name: schema.leaves(root) for name, root in tasks.roots().items()}
    owners = [
        name
        for name, leaves in roots.items()
        if key in leaves or any(schema.takes_node(leaves.get(parent)) for parent in _parents(key))
    ]
    if owners:
        return f"{key} is a key of {' and '.join(owners)}, not of {task}; leave it out"
    deeper = [leaf for leaf in roots[task] if leaf.endswith(f".{key}")]
    if deeper:
        return f"unknown key {key!r}; did you mean {' or '.join(deeper)}?"
    return None


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
    """A text quoted for Hydra's grammar; a quoted text stays unchanged."""
    if value == "null" or re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL):
        return value
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"


def check_option(task: str, override: str, own: Sequence[Path]) -> None:
    """Refuse an option that its group does not have, before Hydra does at length."""
    group, value = override.split("=", 1)
    value = value.strip("'\"")
    hint = schema.leaves(tasks.roots()[task]).get(group.replace("/", "."))
    several = group == tasks.EXPERIMENTS or get_origin(hint) is dict
    several = several and (value == "null" or value.startswith("["))
    known = tasks.options(group, own)
    if group in HYDRA_GROUPS and value not in (known := ["basic", *known]):
        raise ConfigError(schema.choice(group, value, known))
    if group in tasks.groups(task, own) and not several and value not in known:
        files = f", or a file ./experiments/{value}.yaml" if group == tasks.EXPERIMENTS else ""
        raise ConfigError(schema.choice(group, value, known) + files)
