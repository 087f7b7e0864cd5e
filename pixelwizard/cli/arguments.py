"""The command line before Hydra reads it: a task, options, texts, checked overrides."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, get_args, get_origin

from pixelwizard.cli.habits import HABITS, habit
from pixelwizard.cli.tasks import DEFAULT_TASK, TASKS, command
from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError, choice, unknown
from pixelwizard.config.sweep import LauncherSettings, SweeperSettings

OVERRIDE = re.compile(r"\+{0,2}(?P<key>[^=\s]+)=(?P<value>.*)", re.DOTALL)
SWEPT = re.compile(r",|(range|glob|choice)\(")
SEARCH_PATH = "hydra.searchpath"
FILE_KEYS = {"backbone.vae": "backbone.vae_file"}
"""Groups that a file may replace, and the key that names the file."""
HYDRA_PARTS: dict[str, type] = {"launcher": LauncherSettings, "sweeper": SweeperSettings}
HYDRA_GROUPS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler")
"""Hydra's own groups that may be chosen: where a sweep's jobs run, and what chooses them."""


def split_folders(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders of ``hydra.searchpath=DIR`` or ``=[DIR,...]``, and the other overrides."""
    words = [word for word in overrides if word.startswith(f"{SEARCH_PATH}=")]
    values = [word.split("=", 1)[1] for word in words]
    lists = [v[1:-1].split(",") if re.fullmatch(r"\[.*\]", v) else [v] for v in values]
    folders = [one.strip(" '\"").removeprefix("file://") for several in lists for one in several]
    return folders, [word for word in overrides if word not in words]


def checked(task: str, overrides: Sequence[str], sweep: bool, own: Sequence[Path]) -> list[str]:
    """The overrides for Hydra: keys checked, texts quoted.

    ``own`` are the user's configuration folders, which may bring groups.
    """
    return [_checked_one(override, task, own, sweep) for override in overrides]


def _checked_one(override: str, task: str, own: Sequence[Path], sweep: bool) -> str:
    leaves, groups = schema.leaves(tasks.ROOTS[task]), tasks.groups(task, own)
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
    key = key if node else FILE_KEYS.get(key, key)
    if key in groups and not node:
        return f"{key}={value}"
    if key in HABITS and not (key in leaves and value.lstrip().startswith(("{", "["))):
        raise ConfigError(habit(key))
    if key in leaves:
        free = node and schema.takes_node(leaves[key]) or sweep and SWEPT.search(value)
        return f"{key}={quoted(value) if _is_text(leaves[key]) and not free else value}"
    if any(schema.takes_node(leaves.get(parent)) for parent in _parents(key)):
        return f"{key}={value}"
    raise ConfigError(elsewhere(task, key) or habit(key) or _unknown_key(key, leaves, groups))


def _parents(key: str) -> list[str]:
    """The keys of the groups that a key lies in."""
    return [key[:end] for end, letter in enumerate(key) if letter == "."]


def sets_part(task: str, override: str, own: Sequence[Path]) -> bool:
    """Whether a checked override gives a part to a key: a node, a key below one, a shipped name.

    Hydra would merge a node into the earlier value, and a shipped name is no option of a user's
    group.
    """
    leaves = schema.leaves(tasks.ROOTS[task])
    key, value = override.split("=", 1)
    name = value.strip("'\"")
    if get_origin(leaves.get(key)) is list and (tasks.shipped() / key).is_dir():
        return True  # Hydra would look for a group
    if name in part_names(task, key) and name not in tasks.options(key, own):
        return True
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


def elsewhere(task: str, key: str) -> str | None:
    """The sentence on a key that other tasks have, or that lies deeper in this one."""
    roots = {name: schema.leaves(root) for name, root in tasks.ROOTS.items()}
    owners = [
        name
        for name, leaves in roots.items()
        if key in leaves or any(schema.takes_node(leaves.get(parent)) for parent in _parents(key))
    ]
    if owners and task not in owners:
        return f"{key} is a key of {' and '.join(owners)}, not of {task}; leave it out"
    deeper = [leaf for leaf in roots[task] if leaf.endswith(f".{key}")]
    if deeper:
        return f"unknown key {key!r}; did you mean {' or '.join(deeper)}?"
    return None


def group_elsewhere(task: str, said: str) -> str | None:
    """The sentence on a file that chooses from a group of another task; None for other errors."""
    of_1_3 = r"In '([^']+)': Could not override '([^']+)'"
    of_1_4 = r"In '([^']+)': Invalid Defaults List override '/?([^':]+)"
    match = re.search(of_1_3, said) or re.search(of_1_4, said)
    if match is None:
        return None
    file, group = match[1].replace("/", "=", 1), match[2]
    owners = [name for name in tasks.ROOTS if group in tasks.groups(name)]
    known = f"a group of {' and '.join(owners)}, not of {task}; leave {file} out"
    return f"{file} chooses {group}, {known if owners else 'which is no group; remove it there'}"


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


def part_names(task: str, key: str) -> list[str]:
    """The shipped parts that a key can name; a user's group may have the same key."""
    found = schema.marked(tasks.ROOTS[task], "door").get(key)
    return found.names if found else []


def is_file_of_group(override: str) -> bool:
    """Whether a checked override is ``layout=FILE.yaml``, the path of an option of its own."""
    group, value = override.split("=", 1)
    return group == "layout" and value.endswith(".yaml") and Path(value).is_file()


def check_option(task: str, override: str, own: Sequence[Path]) -> None:
    """Refuse an option that its group does not have; Hydra's own message would be long."""
    group, value = override.split("=", 1)
    value = value.strip("'\"")
    hint = schema.leaves(tasks.ROOTS[task]).get(group.replace("/", "."))
    several = group == tasks.EXPERIMENTS or get_origin(hint) is dict
    several = several and (value == "null" or value.startswith("["))
    known = sorted({*tasks.options(group, own), *part_names(task, group)})
    if group in HYDRA_GROUPS and value not in (known := ["basic", *known]):
        raise ConfigError(schema.choice(group, value, known))
    if group in tasks.groups(task, own) and not several and value not in known:
        files = {tasks.EXPERIMENTS: f", or a file ./experiments/{value}.yaml"}
        files["layout"] = ", or the path of a .yaml file"
        raise ConfigError(schema.choice(group, value, known) + files.get(group, ""))


SHORT = {
    **{"-h": "--help", "-m": "--multirun", "-r": "--run", "-c": "--cfg", "-p": "--package"},
    **{"-i": "--info", "-cd": "--config-dir", "-sc": "--shell-completion"},
    **{"-cn": "--config-name", "-cp": "--config-path"},
}
FLAGS = ("--help", "--version", "--multirun", "--run", "--resolve", "--hydra-help")
VALUES = {
    "--prompt": '"a red circle moves left over a gray background"',
    "--video": "clip.mp4",
    "--image": "picture.png",
    "--cfg": "job",
    "--package": "schedule",
    "--config-dir": "DIR",
}
"""Options with a value, and an example of it."""
FILES = {"--video": "from_video", "--image": "from_image"}
"""Options that name files, and the key whose list they fill."""
CFG = ("job", "hydra", "all")
SHELLS = ("bash", "fish", "zsh")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
COMPLETION = "--shell-completion"
COMPLETIONS = [f"{do}={shell}" for do in ("install", "uninstall", "query") for shell in SHELLS]
OPTIONS = (*FLAGS, *VALUES, "--info", COMPLETION)
RENAMED = {"hydra.run.dir": "run_dir", "hydra.sweep.dir": "sweep_dir", "hydra.verbose": "verbose"}
"""Keys of Hydra that do the same as ours."""
EVERYTHING = {"true": "[root]", "false": "[]"}
"""What ``hydra.verbose`` means besides names of loggers."""


@dataclasses.dataclass
class Arguments:
    """The parsed command line, before anything is composed.

    ``show`` has the options that only print something: ``--help``, ``--cfg``, ``--info``, ... and
    their values.
    """

    task: str = DEFAULT_TASK
    prompts: list[str] = dataclasses.field(default_factory=list)
    files: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    words: list[str] = dataclasses.field(default_factory=list)
    overrides: list[str] = dataclasses.field(default_factory=list)
    sweep: bool = False
    sweep_dir: str | None = None
    show: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def all_overrides(self) -> list[str]:
        """The overrides, also those that bare words and options with files stand for."""
        more = [f"{FILES[option]}={_listed(files)}" for option, files in self.files.items()]
        if self.words:
            chosen = command(self.task)
            value = _listed(self.words) if chosen.words else self.words[0]
            more.append(f"{chosen.word}={value}")
        return [*self.overrides, *more]


def _listed(words: Sequence[str]) -> str:
    return f"[{','.join(map(quoted, words))}]"


def parse(argv: Sequence[str]) -> Arguments:
    """Read a command line. Raises ConfigError naming the closest thing that exists."""
    arguments = Arguments()
    rest = list(argv)
    if rest and not rest[0].startswith(("-", "+", "~")) and "=" not in rest[0]:
        arguments.task = rest.pop(0)
        if " " in arguments.task:
            raise ConfigError(f"{arguments.task!r} is no task; put --prompt before it for a video")
        if arguments.task not in TASKS:
            raise ConfigError(unknown(f"task {arguments.task!r}", arguments.task, TASKS))
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and not word.startswith("-="):
            _option(arguments, word, rest)
        elif _is_word(arguments, word):
            arguments.words.append(word)
        elif "=" in word or word.startswith("~"):
            _override(arguments, word)
        else:
            raise ConfigError(
                f"{word!r} is neither an option nor key=value; put a text after --prompt"
            )
    if "--resolve" in arguments.show and "--cfg" not in arguments.show:
        raise ConfigError("--resolve goes with --cfg")
    return arguments


def _option(arguments: Arguments, word: str, rest: list[str]) -> None:
    """Take an option, and its value from itself or from the rest."""
    name, has_value, value = word.partition("=")
    name = SHORT.get(name, name)
    if name not in OPTIONS:
        hyphens = f"{word}: a key has no hyphens; write {word.lstrip('-')}" if has_value else None
        raise ConfigError(habit(name) or hyphens or unknown(f"option {word!r}", word, OPTIONS))
    if name in VALUES and not has_value:
        if not rest:
            raise ConfigError(f"{name} needs a value, like {name} {VALUES[name]}")
        value = rest.pop(0)
    elif name == "--info" and not has_value:
        value = rest.pop(0) if rest and rest[0] in INFO else "all"
    elif name == COMPLETION:
        value = rest.pop(0) if rest else ""
        if value not in COMPLETIONS:
            raise ConfigError(choice(name, value, COMPLETIONS))
    elif has_value and name in FLAGS:
        raise ConfigError(f"{name} takes no value")
    for option, known in (("--cfg", CFG), ("--info", INFO)):
        if name == option and value not in known:
            raise ConfigError(choice(name, value, known))
    if name == "--prompt":
        arguments.prompts.append(os.fsencode(value).decode("utf-8", "surrogateescape"))
    elif name in FILES:
        if not value:
            raise ConfigError(f"{name} is empty; give a file, like {name} {VALUES[name]}")
        if FILES[name] not in schema.leaves(tasks.ROOTS[arguments.task]):
            raise ConfigError(f"{name} is not for {arguments.task}; leave it out")
        arguments.files.setdefault(name, []).append(value)
    elif name == "--config-dir":
        arguments.overrides.append(f"{SEARCH_PATH}={value}")
    elif name == "--multirun":
        arguments.sweep = True
    elif name != "--run":
        arguments.show[name] = value


def _override(arguments: Arguments, word: str) -> None:
    """Keep an override; some keys have another name here, or belong to the sweep."""
    key, _, value = word.partition("=")
    if key == "hydra.verbose":
        value = EVERYTHING.get(value.lower(), value if value.startswith("[") else f"[{value}]")
    key = RENAMED.get(key, key)
    if key == "sweep_dir":
        arguments.sweep_dir = value
    else:
        arguments.overrides.append(f"{key}={value}" if value or "=" in word else word)


def _is_word(arguments: Arguments, word: str) -> bool:
    """Whether a bare word is a value of the task's own key; several are if the key takes a list.

    Folders of jobs have ``=`` and ``,`` in their names: a word that is no key of the task is a path
    if that path exists, or if it has a ``/`` before the first ``=``.
    """
    chosen = command(arguments.task)
    given = [override.split("=", 1)[0] for override in arguments.overrides]
    if chosen.word is None or chosen.word in given or (arguments.words and not chosen.words):
        return False
    key, is_assignment, _ = word.partition("=")
    root = tasks.ROOTS[arguments.task]
    if not is_assignment:
        return True
    if key in schema.leaves(root) or key in tasks.groups(arguments.task) or "hydra/" in key:
        return False
    return "/" in key or Path(word).exists()
