"""Where the jobs of a sweep run: one after the other, in parallel, or on a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from pixelwizard.cli.sweeps.ledger import Ended, Launch, SweepJob, in_turn
from pixelwizard.config.parallel import asked_ranks, is_open, mesh_of
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.sweep import LauncherSettings
from pixelwizard.io.process import usable_cores
from pixelwizard.io.terminal import reason
from pixelwizard.records.run_folder import Failure

POLL_SECONDS = 2.0
EXTRA = 'pip install "pixelwizard[sweeps]"'
CLUSTERS = {"submitit_slurm": "slurm", "submitit_local": "local"}
ANYWHERE = ("name", "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
ON_SLURM = (
    *("partition", "account", "qos", "constraint", "exclude", "comment"),
    *("array_parallelism", "setup", "additional_parameters"),
)
"""Settings of submitit: of every cluster, and those that it knows as ``slurm_...``."""


def launcher_of(settings: LauncherSettings, folder: Path) -> Launch:
    """How the jobs of the sweep in ``folder`` are run. Raises ConfigError without its library."""
    if settings.kind == "basic":
        return in_turn
    if settings.kind == "joblib":
        return lambda jobs: _in_parallel(jobs, at_once(settings))
    if find_spec("submitit") is None:
        raise ConfigError(
            f"hydra/launcher={settings.kind} needs submitit; install it with: {EXTRA}"
        )
    return lambda jobs: _on_cluster(jobs, settings, folder)


def at_once(settings: LauncherSettings) -> int:
    """The number of jobs that share this machine."""
    if settings.kind != "joblib":
        return 1
    return usable_cores() if settings.n_jobs == -1 else settings.n_jobs


def on_node(config: Any, settings: LauncherSettings) -> Any:
    """A job's configuration where it will run: on SLURM open sizes follow from ``gpus_per_node``.

    Raises ConfigError for more ranks than those, and for a job that starts none.
    """
    parallel, gpus = getattr(config, "parallel", None), settings.gpus_per_node
    if parallel is not None and not parallel.launch:
        raise ConfigError(
            "parallel.launch=false is for one run; a sweep starts the ranks of its jobs itself,"
            " so leave it out"
        )
    if settings.kind != "submitit_slurm" or not gpus or parallel is None:
        return config
    if is_open(parallel) and parallel.devices is None:
        devices = max(gpus, asked_ranks(config))
        config = replace(config, parallel=replace(parallel, devices=devices))
    ranks = mesh_of(config).world
    if ranks > gpus:
        raise ConfigError(
            f"hydra.launcher.gpus_per_node={gpus} is too few for the {ranks} ranks of"
            f" parallel={parallel.mode}, which have one each; use"
            f" hydra.launcher.gpus_per_node={ranks}"
        )
    return config


def _in_parallel(jobs: Mapping[str, SweepJob], count: int) -> Iterator[tuple[str, Ended]]:
    """``count`` jobs at a time: threads that wait for the processes of their jobs."""
    with ThreadPoolExecutor(count) as pool:
        running = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for ended in as_completed(running):
                yield running[ended], ended.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _on_cluster(
    jobs: Mapping[str, SweepJob], settings: LauncherSettings, folder: Path
) -> Iterator[tuple[str, Ended]]:
    """Submit all, yield each as it ends; unfinished ones are cancelled with this process."""
    waiting = submit(jobs, settings, folder)
    try:
        while waiting:
            for name in [name for name, job in waiting.items() if job.done()]:
                yield name, _result(waiting.pop(name))
            if waiting:
                time.sleep(POLL_SECONDS)
    finally:
        for job in waiting.values():
            job.cancel()


def submit(
    jobs: Mapping[str, SweepJob], settings: LauncherSettings, folder: Path
) -> dict[str, Any]:
    """Hand every job to submitit; its own files go into ``.submitit`` of the sweep's folder."""
    import submitit

    cluster = CLUSTERS[settings.kind]
    if cluster == "slurm" and which("srun") is None:
        raise ConfigError(
            "hydra/launcher=submitit_slurm needs SLURM's srun on PATH, which is not here; nearest:"
            " hydra/launcher=joblib"
        )
    executor = submitit.AutoExecutor(folder=folder / ".submitit" / "%j", cluster=cluster)
    given = {name: getattr(settings, name) for name in ANYWHERE}
    slurm = {name: getattr(settings, name) for name in ON_SLURM}
    given |= {f"slurm_{name}": value for name, value in slurm.items() if value}
    try:
        executor.update_parameters(**given)
    except (NameError, TypeError, ValueError) as error:
        raise ConfigError(f"hydra.launcher: submitit refuses this ({reason(error)})") from None
    if not jobs:
        return {}
    with executor.batch():
        submitted = {name: executor.submit(job) for name, job in jobs.items()}
    return submitted


def _result(job: Any) -> Ended:
    """What a job returned; one that the cluster ended is a failure of that job alone."""
    try:
        return job.result()
    except Exception as error:
        why = reason(error, 500)
        return Ended(1, Failure(why, "oom" in why.lower()))
