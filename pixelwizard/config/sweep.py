"""The settings of a sweep: its launcher and its sweeper. No torch, no Hydra here.

Keys and defaults have the names of Hydra's own plugins, hydra-joblib-launcher,
hydra-submitit-launcher and hydra-optuna-sweeper.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional, Tuple, Union

from pixelwizard.config.schema import ConfigError, setting
from pixelwizard.config.targets import Door, Part

SUBMITIT = ("submitit_slurm", "submitit_local")


@dataclass(frozen=True)
class LauncherSettings:
    """How jobs run: one after the other, ``n_jobs`` at once (-1: one per core), or by submitit.

    ``submitit_slurm`` uses a cluster, ``submitit_local`` this machine; the other keys are theirs.
    """

    kind: Literal["basic", "joblib", "submitit_slurm", "submitit_local"] = "basic"
    n_jobs: int = setting(2, low=-1, only_for=("joblib",))
    timeout_min: int = setting(240, low=1, only_for=SUBMITIT)
    cpus_per_task: int = setting(8, low=1, only_for=SUBMITIT)
    gpus_per_node: int = setting(1, low=0, only_for=SUBMITIT)
    mem_gb: int = setting(64, low=1, only_for=SUBMITIT)
    nodes: int = setting(1, only_for=SUBMITIT)
    tasks_per_node: int = setting(1, only_for=SUBMITIT)
    name: str = setting("pixelwizard", only_for=SUBMITIT)
    partition: Optional[str] = setting(None, only_for=SUBMITIT)
    account: Optional[str] = setting(None, only_for=SUBMITIT)
    qos: Optional[str] = setting(None, only_for=SUBMITIT)
    constraint: Optional[str] = setting(None, only_for=SUBMITIT)
    exclude: Optional[str] = setting(None, only_for=SUBMITIT)
    comment: Optional[str] = setting(None, only_for=SUBMITIT)
    array_parallelism: int = setting(256, low=1, only_for=SUBMITIT)
    setup: List[str] = setting([], only_for=SUBMITIT)
    additional_parameters: Dict[str, Any] = setting({}, only_for=SUBMITIT)

    def check(self, key: str) -> None:
        """At least one job at a time, one machine per job; raises ConfigError."""
        if self.n_jobs == 0:
            raise ConfigError(f"{key}.n_jobs=0 runs nothing; give a number, or -1 for one per core")
        for name in ("nodes", "tasks_per_node"):
            if getattr(self, name) != 1:
                raise ConfigError(
                    f"{key}.{name}={getattr(self, name)} is not possible: a job of a sweep starts"
                    f" its ranks itself, on one machine; leave it out and set {key}.gpus_per_node"
                )


@dataclass(frozen=True)
class SweeperSettings:
    """The choice of jobs: every combination, or Optuna by ``quality`` and ``cost``.

    ``n_jobs`` trials are chosen before the first of them runs, so a launcher can run them in
    parallel. ``target`` is the override of the run that ``distance`` is measured to.
    """

    kind: Literal["basic", "optuna"] = "basic"
    n_trials: int = setting(20, low=1)
    n_jobs: int = setting(1, low=1)
    sampler: Optional[Part] = setting(None, door=Door("optuna.samplers.BaseSampler"))
    quality: str = "distance"
    cost: Literal["nfe", "seconds"] = "nfe"
    target: str = "schedule=unipc50"
    params: Optional[Dict[str, Any]] = None

    def check(self, key: str) -> None:
        """Optuna has a sampler; raises ConfigError."""
        if self.kind == "optuna" and self.sampler is None:
            raise ConfigError(f"{key}.sampler=null chooses nothing; leave it out")


@dataclass(frozen=True)
class Span:
    """A number from ``low`` to ``high``, both included; ``whole`` numbers in steps."""

    low: float
    high: float
    whole: bool
    step: int = 1
    log: bool = False


Space = Dict[str, Union[Tuple[str, ...], Span]]
"""By key a number, or one of some values as they are typed."""


@dataclass(frozen=True)
class Search:
    """What Optuna searches: the keys, and the overrides that hold for every trial."""

    settings: SweeperSettings
    space: Space
    fixed: Tuple[str, ...]


@dataclass(frozen=True)
class Composed:
    """One checked configuration, and the values of the sweep that are its own.

    ``search``: this configuration does not run itself, but others of the search space do.
    """

    config: Any
    swept: Tuple[str, ...] = ()
    launcher: LauncherSettings = field(default_factory=LauncherSettings)
    search: Optional[Search] = None
