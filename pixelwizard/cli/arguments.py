"""Parsing of the command line: a task, options, texts, and overrides for Hydra."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.habits import habit
from pixelwizard.cli.overrides import SEARCH_PATH, quoted
from pixelwizard.cli.tasks import DEFAULT_TASK, TASKS, command
from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError, choice, unknown

SHORT = {
    **{"-h": "--help", "-m": "--multirun", "-r": "--run", "-c": "--cfg", "-p": "--package"},
    **{"-i": "--info", "-cd": "--config-dir", "-sc": "--shell-completion"},
    **{"-cn": "--config-name", "-cp": "--config-path"},
}
FLAGS = ("--help", "--version", "--multirun", "--run", "--resolve", "--hydra-help")
VALUES = {
    "--prompt": '"a red circle moves left over a gray background"',
    "--cfg": "job",
    "--package": "schedule",
    "--config-dir": "DIR",
}
"""Options with a value, and an example of it."""
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
    words: list[str] = dataclasses.field(default_factory=list)
    overrides: list[str] = dataclasses.field(default_factory=list)
    sweep: bool = False
    sweep_dir: str | None = None
    show: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def all_overrides(self) -> list[str]:
        """The overrides, with the bare words as one more."""
        if not self.words:
            return self.overrides
        chosen = command(self.task)
        several = f"[{','.join(map(quoted, self.words))}]"
        value = several if chosen.words else self.words[0]
        return [*self.overrides, f"{chosen.word}={value}"]


def parse(argv: Sequence[str]) -> Arguments:
    """Read a command line. Raises ConfigError naming the closest thing that exists."""
    arguments = Arguments()
    rest = list(argv)
    if rest and not rest[0].startswith(("-", "+", "~")) and "=" not in rest[0]:
        arguments.task = rest.pop(0)
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
        raise ConfigError(_unknown_option(word, name, bool(has_value)))
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
    elif name == "--config-dir":
        arguments.overrides.append(f"{SEARCH_PATH}={value}")
    elif name == "--multirun":
        arguments.sweep = True
    elif name != "--run":
        arguments.show[name] = value


def _unknown_option(word: str, name: str, has_value: bool) -> str:
    if answer := habit(name):
        return answer
    if has_value:
        return f"{word}: a key has no hyphens; write {word.lstrip('-')}"
    return unknown(f"option {word!r}", word, OPTIONS)


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
    """Whether a bare word gives the task's own key a value: several may if it takes a list.

    Folders of jobs have ``=`` and ``,`` in their names: a word that is no key of the task is a path
    if that path exists, or if it has a ``/`` before the first ``=``.
    """
    chosen = command(arguments.task)
    given = [override.split("=", 1)[0] for override in arguments.overrides]
    if chosen.word is None or chosen.word in given or (arguments.words and not chosen.words):
        return False
    key, is_assignment, _ = word.partition("=")
    root = tasks.roots()[arguments.task]
    if not is_assignment:
        return True
    if key in schema.leaves(root) or key in tasks.groups(arguments.task) or "hydra/" in key:
        return False
    return "/" in key or Path(word).exists()
