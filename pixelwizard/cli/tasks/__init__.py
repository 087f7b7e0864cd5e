"""The tasks of the command line: one module each, imported on use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Command:
    """One task: its summary line, examples that run as written, and its functions.

    ``check(config)`` raises ValueError for what cannot run; ``run(config, command_line)`` returns
    the exit code. ``config`` is the task's root dataclass; ``word`` is the key that a bare word on
    the command line gives a value to, all of them a list if
    ``words``; ``finished(config)`` says whether a run that ended well still has its results, so
    that a sweep need not repeat it.
    """

    summary: str
    examples: str
    check: Callable[[Any], None]
    run: Callable[[Any, Sequence[str]], int]
    word: str | None = None
    words: bool = False
    finished: Callable[[Any], bool] = lambda config: True


TASKS = (
    *("generate", "train", "encode", "evaluate", "compare", "plan", "bench"),
    *("fetch", "convert", "replay"),
)
DEFAULT_TASK = "generate"


def command(task: str) -> Command:
    """The command of a task in TASKS."""
    found: Command = import_module(f"pixelwizard.cli.tasks.{task}").COMMAND
    return found
