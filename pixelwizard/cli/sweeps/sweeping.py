"""A sweep from the command line or from Python: composed jobs, or a search by Optuna.

A search weighs quality against cost, one job of the sweep per trial. Only the ledger and the run
folders are stored. Optuna's choices follow from its seed and the values so far, so repeating the
command proposes the same trials, skips finished ones and continues.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pixelwizard.cli.compose import compose
from pixelwizard.cli.sweeps.launchers import EXTRA, at_once, launcher_of, on_node
from pixelwizard.cli.sweeps.ledger import INTERRUPTS, Launch, SweepJob, job_name, run_sweep
from pixelwizard.cli.tasks import command
from pixelwizard.config.evaluate import DISTANCE, why_no_target
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.sweep import Composed, Search, SweeperSettings
from pixelwizard.config.targets import door_of
from pixelwizard.io.process import SOME_FAILED
from pixelwizard.io.terminal import aligned, say
from pixelwizard.launch.launch import crew
from pixelwizard.records.run_folder import short_hash

MakeJob = Callable[[Sequence[str]], SweepJob]


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


@dataclasses.dataclass(frozen=True)
class _Value:
    quality: float
    cost: float
    higher_is_better: bool

    @property
    def minimised(self) -> tuple[float, float]:
        """For Optuna, which minimises both."""
        return (-self.quality if self.higher_is_better else self.quality), self.cost


def run_search(folder: Path, search: Search, launch: Launch, make_job: MakeJob) -> int:
    """Run the target, then the trials; returns the exit code of a sweep.

    A trial that fails, or that no run can have, does not end the search. Raises ConfigError
    without Optuna.
    """
    optuna, settings = _optuna(), search.settings
    part = settings.sampler
    assert part is not None
    sampler = door_of(SweeperSettings, "sampler").make(part, "hydra.sweeper.sampler")
    target = _target(settings, make_job)
    if code := run_sweep(folder, {target.folder.name: target}, launch):
        return code
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    found: dict[int, tuple[str, _Value]] = {}
    while (begun := len(study.trials)) < settings.n_trials:
        count = min(settings.n_jobs, settings.n_trials - begun)
        trials = [study.ask(_distributions(search, optuna)) for _ in range(count)]
        made = {trial.number: _job(trial, settings.n_trials, make_job) for trial in trials}
        jobs = {job.folder.name: job for job in made.values() if job}
        if (code := run_sweep(folder, jobs, launch)) in INTERRUPTS:
            return code
        for trial in trials:
            job = made[trial.number]
            value = _measured(target, job, search) if job and job.finished() else None
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value.minimised)
                found[trial.number] = (" ".join(_overrides(trial)), value)
    best = [trial.number for trial in study.best_trials] if found else []
    print(_table(found, best, search))
    if failed := settings.n_trials - len(found):
        print(f"{failed} of {settings.n_trials} trials failed", file=sys.stderr)
    return SOME_FAILED if failed else 0


def _target(settings: SweeperSettings, make_job: MakeJob) -> SweepJob:
    """The run that ``distance`` is to. Raises ConfigError for one that is not a target."""
    target = make_job([settings.target])
    why = why_no_target(to_plain(target.config.schedule))
    if why and settings.quality == DISTANCE:
        raise ConfigError(
            f"hydra.sweeper.target={settings.target} does not qualify: {why}; nearest:"
            " schedule=unipc50"
        )
    return target


def _job(trial: Any, count: int, make_job: MakeJob) -> SweepJob | None:
    """The job of a trial; None, and a sentence, if its settings are invalid."""
    overrides = _overrides(trial)
    print(f"trial {trial.number + 1} of {count}: {' '.join(overrides)}", file=sys.stderr)
    try:
        return make_job(overrides)
    except ConfigError as error:
        say(str(error))
        return None


def _overrides(trial: Any) -> list[str]:
    return [f"{key}={value}" for key, value in trial.params.items()]


def _measured(target: SweepJob, job: SweepJob, search: Search) -> _Value | None:
    """Means over the prompts; None, and a sentence, if the score is missing."""
    # with torch: only where something is measured
    from pixelwizard.comparison.differences import compare
    from pixelwizard.comparison.variants import read_variants

    names = search.settings
    try:
        variants, _ = read_variants([target.folder, job.folder])
        to = variants[0].name if names.quality == DISTANCE else None
        rows = compare(variants, quality=names.quality, target=to).rows
    except ConfigError as error:
        say(str(error))
        return None
    scores = next(row.scores for row in rows if row.variant.name == variants[-1].name)
    quality = scores[names.quality]
    return _Value(quality.value, scores[names.cost].value, quality.higher_is_better)


def _distributions(search: Search, optuna: Any) -> dict[str, Any]:
    made = {}
    for key, values in search.space.items():
        if isinstance(values, tuple):
            made[key] = optuna.distributions.CategoricalDistribution(values)
        elif values.whole:
            low, high = int(values.low), int(values.high)
            step = 1 if values.log else values.step
            made[key] = optuna.distributions.IntDistribution(low, high, values.log, step)
        else:
            made[key] = optuna.distributions.FloatDistribution(values.low, values.high, values.log)
    return made


def _table(found: dict[int, tuple[str, _Value]], best: Sequence[int], search: Search) -> str:
    """Every trial, the front marked."""
    names = search.settings
    rows: list[tuple[str, ...]] = [("trial", names.quality, names.cost, "front", "overrides")]
    for number, (overrides, value) in found.items():
        mark = "*" if number in best else ""
        rows.append((str(number), f"{value.quality:.4g}", f"{value.cost:g}", mark, overrides))
    return "\n".join(aligned(rows, left=(4,)))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(f"hydra/sweeper=optuna needs optuna; install it with: {EXTRA}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
