"""The command line: read the arguments, compose, check, launch. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixelwizard import __version__
from pixelwizard.cli.arguments import COMPLETION, FILES, Arguments, parse, split_folders
from pixelwizard.cli.completion import complete
from pixelwizard.cli.tasks import DEFAULT_TASK, TASKS, command
from pixelwizard.config import schema, tasks
from pixelwizard.config.schema import ConfigError, join, to_plain, unknown
from pixelwizard.io.process import USER_ERROR, settle_streams
from pixelwizard.io.terminal import reason, say

INTERRUPTED = 130
QUERIES = {"query=bash": " ", "query=zsh": " ", "query=fish": "\n"}
"""A shell's query for completions -> the separator that it expects between them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 (the user's mistake), 3, 130, 143."""
    settle_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        _check_working_directory()
        code = _run(parse(argv), argv)
        sys.stdout.flush()
        return code
    except ValueError as error:
        say(str(error))
        return USER_ERROR
    except OSError as error:
        say(f"{error.filename or 'stdout'}: {reason(error)}")
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the working directory was removed; change to another") from None


def _run(arguments: Arguments, argv: Sequence[str]) -> int:
    if arguments.show:
        _show(arguments)
        return 0
    task = command(arguments.task)
    from pixelwizard.cli.compose import compose  # Hydra: only where something is composed

    overrides = arguments.all_overrides
    jobs = compose(arguments.task, overrides, arguments.prompts, arguments.sweep)
    command_line = ("pixelwizard", *argv)
    if arguments.sweep or any(job.swept or job.search for job in jobs):
        from pixelwizard.cli.sweeps.sweeping import SweepRequest, sweep

        request = SweepRequest(
            arguments.task, overrides, arguments.prompts, command_line, arguments.sweep_dir
        )
        return sweep(request, jobs)
    if arguments.sweep_dir is not None:
        raise ConfigError("sweep_dir is for sweeps; add -m, or use run_dir")
    task.check(jobs[0].config)
    return task.run(jobs[0].config, command_line)


def _show(arguments: Arguments) -> None:
    """Print the requested information in place of a run."""
    show, overrides = arguments.show, arguments.all_overrides
    if "--help" in show:
        print(_help(arguments.task, tasks.own_folders(split_folders(overrides)[0])))
    elif "--version" in show:
        print(f"pixelwizard {__version__}")
    elif (query := show.get(COMPLETION)) in QUERIES:
        print(*complete(os.environ.get("COMP_LINE", "")), sep=QUERIES[query])
    elif show.get("--cfg") == "job":
        from pixelwizard.cli.compose import compose

        jobs = compose(arguments.task, overrides, arguments.prompts, arguments.sweep)
        print("---\n".join(_yaml(job.config, show.get("--package")) for job in jobs), end="")
    else:
        from pixelwizard.cli.shown import shown_by_hydra

        print(shown_by_hydra(arguments.task, arguments.show, overrides), end="")


def _yaml(config: Any, package: str | None) -> str:
    import yaml

    values, title = to_plain(config), ""
    if package not in (None, "_global_"):
        title, place = f"# @package {package}\n", ""
        for name in package.split("."):
            if not isinstance(values, dict) or name not in values:
                known = values if isinstance(values, dict) else ()
                raise ConfigError(unknown(f"key {package!r}", name, known, place))
            values, place = values[name], join(place, name)
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return title + text.removesuffix("...\n")


_PROMPTS = """\
  --prompt TEXT          make a video of this text; any punctuation; may be repeated
  --video FILE           refine this clip; may be repeated, with one --prompt for all or one each
  --image FILE           begin a video with this picture; may be repeated like --video
"""


def _help(task: str, own: Sequence[Path]) -> str:
    chosen = command(task)
    groups = [
        f"  {group}={{{','.join(tasks.options(group, own)) or 'NAME'}}}"
        for group in tasks.groups(task, own)
    ]
    options = "\n".join(["groups (group=OPTION)", *groups, "\n"]) if groups else ""
    listed = "\n".join(f"  {name:<10} {summary}" for name, summary in TASKS.items())
    keys = schema.leaves(tasks.ROOTS[task])
    prompted = FILES["--video"] in keys
    output = [f"; {key}=FOLDER sets the output folder" for key in ("run_dir", "out") if key in keys]
    words = [
        "[TASK]" if task == DEFAULT_TASK else task,
        "[FOLDER]..." if chosen.words else f"[{chosen.word.upper()}]" if chosen.word else "",
        "[--prompt TEXT]..." if prompted else "",
        "[key=value ...]",
    ]
    return f"""\
usage: pixelwizard {" ".join(word for word in words if word)}

Two-stage text-to-video: a small anchor clip first, then its high-resolution detail in a few steps.

tasks ({DEFAULT_TASK} is the default)
{listed}

examples
{chosen.examples}

options
{_PROMPTS if prompted else ""}\
  -m, --multirun         run every combination of comma-separated values (key=a,b)
  -c, --cfg job          print the composed configuration and stop (hydra, all: with Hydra's own)
  -p, --package KEY      with --cfg: print only this part
  -cd, --config-dir DIR  a folder laid out like conf/, with your own options
  -i, --info [WHAT]      print Hydra's defaults, defaults-tree, config, searchpath or plugins
  -sc, --shell-completion install=bash|zsh|fish
  --version, -h, --help, --hydra-help

{options}\
--cfg job lists all other keys{"".join(output)}.
Exit codes: 0 done, 1 a defect, 2 a mistake in the request, 3 some prompts or jobs failed,
130/143 interrupted (repeat the command to continue)."""
