"""The tasks of the command line: one module each, imported on use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any


def run_in_workers(config: Any, command_line: Sequence[str]) -> int:
    """Claim the run folder and run the task in a worker for each rank; returns the exit code."""
    from pixelwizard.config.parallel import mesh_of
    from pixelwizard.launch import launch  # multiprocessing: only where something runs
    from pixelwizard.records.run_folder import claim

    folder, parallel = claim(config, command_line), getattr(config, "parallel", None)
    if parallel is None:
        return launch.launch(folder)
    if not parallel.launch:
        print(f"start its ranks with: torchrun --nnodes N ... -m pixelwizard.worker {folder}")
        return 0
    return launch.launch(folder, mesh_of(config).world)


@dataclass(frozen=True)
class Study:
    """What a sweep's jobs need and make together.

    ``first`` are jobs that must be done before all others, by name; ``last`` is called once the
    others have ended, and prints what it wrote.
    """

    first: Mapping[str, Any] = field(default_factory=dict)
    last: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Command:
    """One task: examples that run as written, and its functions.

    ``check(config)`` raises ValueError for what cannot run; ``run(config, command_line)`` returns
    the exit code. ``config`` is the task's root dataclass. A bare word on the command line becomes
    the value of the key ``word``; if ``words``, all bare words become a list. ``finished(config)``
    says whether a run that ended well still has its results, so that a sweep need not repeat it.
    ``study(folder, jobs)`` is the ``Study`` of a sweep's jobs, which are named by their swept
    values; it raises ValueError if they do not fit together.
    """

    examples: str
    check: Callable[[Any], None] = lambda config: None
    run: Callable[[Any, Sequence[str]], int] = run_in_workers
    word: str | None = None
    words: bool = False
    finished: Callable[[Any], bool] = lambda config: True
    study: Callable[[Path, Mapping[tuple[str, ...], Any]], Study] = lambda folder, jobs: Study()


TASKS = {
    "generate": "make videos from text",
    "train": "train a network",
    "encode": "encode videos to latents, for training",
    "evaluate": "score a folder of videos",
    "compare": "compare runs on a page with their videos",
    "table": "fill a paper's table from runs",
    "plan": "predict time and memory of a run",
    "bench": "measure time and memory of every stage",
    "fetch": "download weights from the Hugging Face hub",
    "convert": "write weights as bfloat16 safetensors",
    "replay": "regenerate a video",
}
"""Every task, and what it does, in a few words."""
DEFAULT_TASK = "generate"


def command(task: str) -> Command:
    """The command of a task in TASKS."""
    return import_module(f"pixelwizard.cli.tasks.{task}").COMMAND
