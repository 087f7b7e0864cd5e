"""The settings of a sweep: where its jobs run, and who chooses them. No torch, no Hydra here.

Keys and defaults have the names of Hydra's own plugins, hydra-joblib-launcher,
hydra-submitit-launcher and hydra-optuna-sweeper.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Dict, List, Literal, Optional, Tuple, Union

from pixelwizard.config.schema import ConfigError, check_range
from pixelwizard.config.targets import Part, door


@dataclass(frozen=True)
class LauncherSettings:
    """Where jobs run: one after the other, ``n_jobs`` at once (-1: one per core), or by submitit.

    ``submitit_slurm`` is a cluster, ``submitit_local`` this machine; all but ``n_jobs`` are theirs.
    """

    kind: Literal["basic", "joblib", "submitit_slurm", "submitit_local"] = "basic"
    n_jobs: int = 2
    timeout_min: int = 240
    cpus_per_task: int = 8
    gpus_per_node: int = 1
    mem_gb: int = 64
    nodes: int = 1
    tasks_per_node: int = 1
    name: str = "pixelwizard"
    partition: Optional[str] = None
    account: Optional[str] = None
    qos: Optional[str] = None
    constraint: Optional[str] = None
    exclude: Optional[str] = None
    comment: Optional[str] = None
    array_parallelism: int = 256
    setup: List[str] = field(default_factory=list)
    additional_parameters: Dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Counts that are possible, and nothing of another launcher; raises ConfigError."""
        if self.n_jobs != -1:
            check_range("hydra.launcher.n_jobs", self.n_jobs, 1)
        for name in ("timeout_min", "cpus_per_task", "mem_gb", "array_parallelism"):
            check_range(f"hydra.launcher.{name}", getattr(self, name), 1)
        check_range("hydra.launcher.gpus_per_node", self.gpus_per_node, 0)
        for name in ("nodes", "tasks_per_node"):
            if getattr(self, name) != 1:
                raise ConfigError(
                    f"hydra.launcher.{name}={getattr(self, name)} is not possible: a job of a sweep"
                    " starts its ranks itself, on one machine; leave it out and set"
                    " hydra.launcher.gpus_per_node"
                )
        for item in fields(self)[1:]:
            of_joblib, given = item.name == "n_jobs", getattr(self, item.name) != item.default
            if given and item.default is not MISSING and of_joblib != (self.kind == "joblib"):
                owner = "joblib" if of_joblib else "submitit_slurm"
                raise ConfigError(
                    f"hydra.launcher.{item.name} is for hydra/launcher={owner}, not {self.kind};"
                    " leave it out"
                )


@dataclass(frozen=True)
class SweeperSettings:
    """Who chooses the jobs: every combination, or Optuna by ``quality`` and ``cost``.

    ``n_jobs`` trials are chosen before the first of them runs, so that a launcher can run them at
    once. ``target`` is the override of the run that ``distance`` is to.
    """

    kind: Literal["basic", "optuna"] = "basic"
    n_trials: int = 20
    n_jobs: int = 1
    sampler: Optional[Part] = field(default=None, metadata=door("optuna.samplers.BaseSampler"))
    quality: str = "distance"
    cost: Literal["nfe", "seconds"] = "nfe"
    target: str = "schedule=unipc50"
    params: Optional[Dict[str, Any]] = None

    def check(self) -> None:
        """Numbers of trials, and something that chooses them; raises ConfigError."""
        check_range("hydra.sweeper.n_trials", self.n_trials, 1)
        check_range("hydra.sweeper.n_jobs", self.n_jobs, 1)
        if self.kind == "optuna" and self.sampler is None:
            raise ConfigError("hydra.sweeper.sampler=null chooses nothing; leave it out")


@dataclass(frozen=True)
class Choice:
    """One of some values, as they are typed."""

    values: Tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """A number from ``low`` to ``high``, both included; ``whole`` numbers in steps."""

    low: float
    high: float
    whole: bool
    step: int = 1
    log: bool = False


Space = Dict[str, Union[Choice, Span]]


@dataclass(frozen=True)
class Search:
    """What Optuna searches: the keys, and the overrides that hold for every trial."""

    settings: SweeperSettings
    space: Space
    fixed: Tuple[str, ...]
