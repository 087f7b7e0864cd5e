"""A sweep from the command line or from Python: composed, checked, run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pixelwizard.cli.compose import compose
from pixelwizard.cli.sweeps.launchers import at_once, launcher_of, on_node
from pixelwizard.cli.sweeps.ledger import INTERRUPTS, Launch, SweepJob, job_name, run_sweep
from pixelwizard.cli.sweeps.search import run_search
from pixelwizard.cli.tasks import command
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.sweep import Composed
from pixelwizard.launch.launch import crew
from pixelwizard.records.run_folder import short_hash


@dataclasses.dataclass(frozen=True)
class SweepRequest:
    """A requested sweep; without ``sweep_dir`` the folder is named after the other settings."""

    task: str
    overrides: Sequence[str]
    prompts: Sequence[str]
    command_line: tuple[str, ...]
    sweep_dir: str | None = None

    @property
    def folder(self) -> Path:
        """Where the jobs and the ledger are."""
        name = short_hash([self.task, list(self.overrides), list(self.prompts)])
        return Path.cwd() / Path(self.sweep_dir or f"outputs/sweep-{name}").expanduser()

    def job(self, composed: Composed, swept: Sequence[str]) -> SweepJob:
        """A job in its own folder of the sweep. Raises ValueError for what cannot run."""
        config = on_node(composed.config, composed.launcher)
        config = dataclasses.replace(config, run_dir=str(self.folder / job_name(swept)))
        command(self.task).check(config)
        return SweepJob(self.task, config, tuple(swept), self.command_line)


def sweep(request: SweepRequest, jobs: Sequence[Composed]) -> int:
    """Run the composed jobs, or search around the one; returns the exit code.

    Raises ValueError before anything runs if one of them cannot.
    """
    if any(word.split("=")[0].lstrip("+") == "run_dir" for word in request.overrides):
        raise ConfigError("run_dir is for one run; a sweep puts its jobs into sweep_dir=FOLDER")
    if not hasattr(jobs[0].config, "run_dir"):
        raise ConfigError(f"{request.task} runs once; leave -m and lists of values out")
    launcher, search = jobs[0].launcher, jobs[0].search
    launch = launcher_of(launcher, request.folder)
    with crew(at_once(launcher), forked=True):
        if search is None:
            return run_jobs(request, [request.job(job, job.swept) for job in jobs], launch)

        def make_job(overrides: Sequence[str]) -> SweepJob:
            (job,) = compose(request.task, [*search.fixed, *overrides], request.prompts)
            return request.job(job, overrides)

        return run_search(request.folder, search, launch, make_job)


def run_jobs(request: SweepRequest, jobs: Sequence[SweepJob], launch: Launch) -> int:
    """Run the jobs of a sweep, after those that come first; returns the exit code."""
    study = command(request.task).study(request.folder, {job.swept: job.config for job in jobs})
    first = {
        name: SweepJob(request.task, config, (), request.command_line)
        for name, config in study.first.items()
    }
    if first and (code := run_sweep(request.folder, first, launch)):
        return code
    code = run_sweep(request.folder, {job.folder.name: job for job in jobs}, launch)
    if code not in INTERRUPTS:
        study.last()
    return code
