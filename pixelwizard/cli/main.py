"""The command line: read the arguments, compose, check, launch. Imports no torch."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pixelwizard import __version__
from pixelwizard.cli.overrides import SEARCH_PATH, quoted, split_folders
from pixelwizard.cli.tasks import DEFAULT_TASK, TASKS, Command, command
from pixelwizard.config import catalog
from pixelwizard.config.schema import ConfigError, to_plain, unknown
from pixelwizard.launch.launch import kept_warm

OPTIONS = (
    "--help",
    "-h",
    "--version",
    "--multirun",
    "-m",
    "--cfg",
    "--prompt",
    "--config-dir",
    "-cd",
)
USER_ERROR, INTERRUPTED = 2, 130


@dataclasses.dataclass
class Arguments:
    """What the command line says, before anything is composed."""

    task: str = DEFAULT_TASK
    prompts: list[str] = dataclasses.field(default_factory=list)
    words: list[str] = dataclasses.field(default_factory=list)
    overrides: list[str] = dataclasses.field(default_factory=list)
    sweep: bool = False
    sweep_dir: str | None = None
    show: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 (the user's mistake), 3, 130, 143."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(_parse(argv), argv)
    except ValueError as error:
        print(f"pixelwizard: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Arguments, argv: Sequence[str]) -> int:
    if arguments.show == "help":
        print(_help(arguments))
        return 0
    if arguments.show == "version":
        print(f"pixelwizard {__version__}")
        return 0
    with kept_warm() if arguments.sweep and not arguments.show else nullcontext():
        return _run_task(arguments, argv)


def _run_task(arguments: Arguments, argv: Sequence[str]) -> int:
    """Compose and run; the server of a sweep's workers imports meanwhile."""
    task = command(arguments.task)
    from pixelwizard.cli.compose import compose  # Hydra: only where something is composed

    overrides = [*arguments.overrides, *_override_of_words(task, arguments.words)]
    jobs = compose(arguments.task, overrides, arguments.prompts, arguments.sweep)
    if arguments.show == "job":
        print("---\n".join(_yaml(job.config) for job in jobs), end="")
        return 0
    if arguments.sweep or any(job.swept or job.search for job in jobs):
        from pixelwizard.cli.sweeps.sweeping import SweepRequest, sweep

        command_line = ("pixelwizard", *argv)
        request = SweepRequest(
            arguments.task, overrides, arguments.prompts, command_line, arguments.sweep_dir
        )
        return sweep(request, jobs)
    if arguments.sweep_dir is not None:
        raise ConfigError("sweep_dir is for sweeps; add -m, or use run_dir")
    task.check(jobs[0].config)
    return task.run(jobs[0].config, ["pixelwizard", *argv])


def _parse(argv: Sequence[str]) -> Arguments:
    """Tasks, options and overrides. Raises ConfigError naming the closest thing that exists."""
    arguments = Arguments()
    rest = list(argv)
    if rest and not rest[0].startswith(("-", "+", "~")) and "=" not in rest[0]:
        arguments.task = rest.pop(0)
        if arguments.task not in TASKS:
            raise ConfigError(unknown(f"task {arguments.task!r}", arguments.task, TASKS))
    while rest:
        word = rest.pop(0)
        if word in _VALUES:
            if not rest:
                raise ConfigError(f"{word} needs a value, like {word} " + _VALUES[word])
            _set(arguments, word, rest.pop(0))
        elif word.split("=", 1)[0] in _VALUES:
            _set(arguments, *word.split("=", 1))
        elif word in ("-m", "--multirun"):
            arguments.sweep = True
        elif word in ("-h", "--help", "--version"):
            arguments.show = arguments.show or ("version" if word == "--version" else "help")
        elif word.startswith("-"):
            raise ConfigError(unknown(f"option {word!r}", word, OPTIONS))
        elif word.startswith("sweep_dir="):
            arguments.sweep_dir = word.split("=", 1)[1]
        elif _is_word(arguments, word):
            arguments.words.append(word)
        elif "=" in word or word.startswith("~"):
            arguments.overrides.append(word)
        else:
            raise ConfigError(
                f"{word!r} is neither an option nor key=value; put a text after --prompt"
            )
    return arguments


def _is_word(arguments: Arguments, word: str) -> bool:
    """Whether a bare word gives the task's own key a value: several may if it takes a list.

    Folders of jobs have ``=`` in their names, so a folder that is there is a word for a list.
    """
    chosen = command(arguments.task)
    given = [override.split("=", 1)[0] for override in arguments.overrides]
    if chosen.word is None or chosen.word in given:
        return False
    if chosen.words:
        return "=" not in word or ("/" in word.split("=")[0] and Path(word).is_dir())
    return "=" not in word and not arguments.words


def _override_of_words(task: Command, words: Sequence[str]) -> list[str]:
    """The bare words as an override."""
    if not words:
        return []
    value = f"[{','.join(map(quoted, words))}]" if task.words else words[0]
    return [f"{task.word}={value}"]


_VALUES = {
    "--prompt": '"a red circle moves left over a gray background"',
    "--cfg": "job",
    "--config-dir": "FOLDER",
    "-cd": "FOLDER",
}


def _set(arguments: Arguments, option: str, value: str) -> None:
    if option == "--prompt":
        arguments.prompts.append(value)
    elif option in ("--config-dir", "-cd"):
        arguments.overrides.append(f"{SEARCH_PATH}={value}")
    elif value == "job":
        arguments.show = arguments.show or "job"
    else:
        raise ConfigError(f"--cfg={value} must be job, the composed configuration")


def _yaml(config: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=100)
    return text


def _help(arguments: Arguments) -> str:
    chosen = command(arguments.task)
    own = catalog.own_folders(split_folders(arguments.overrides)[0])
    lines = [
        f"  {group}={{{','.join(catalog.options(group, own)) or 'NAME'}}}"
        for group in catalog.groups(arguments.task, own)
    ]
    tasks = "\n".join(f"  {name:<10} {command(name).summary}" for name in TASKS)
    return f"""\
usage: pixelwizard [TASK] [--prompt TEXT]... [key=value ...]

Two-stage text-to-video: a small anchor clip first, then its high-resolution detail in a few steps.

tasks ({DEFAULT_TASK} is the default)
{tasks}

examples
{chosen.examples}

options
  --prompt TEXT   make this video; any punctuation; may be repeated
  -m, --multirun  run every combination of comma-separated values (key=a,b), ledger in sweep.json
  --config-dir DIR, -cd DIR   groups and experiments of your own, laid out like conf/
  --cfg job       print the composed configuration and stop
  --version, -h, --help

groups (group=OPTION)
{chr(10).join(lines)}

Every other key=value is listed by --cfg job; run_dir=FOLDER says where the results go.
Exit codes: 0 done, 2 a mistake in the request, 3 some prompts failed, 130/143 interrupted
(repeat the command to continue)."""
