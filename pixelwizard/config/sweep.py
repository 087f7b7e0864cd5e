"""The settings of a sweep: where its jobs run, and who chooses them. No torch, no Hydra here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Literal, Optional, Tuple, Union

from pixelwizard.config.schema import ConfigError, check_range


@dataclass(frozen=True)
class LauncherSettings:
    """Where jobs run: one after the other, ``jobs`` at once beside each other, or on a cluster.

    All but ``jobs`` are SLURM's; ``options`` are further parameters of submitit, such as
    ``slurm_account``. ``cluster=local`` and ``debug`` try the same on this machine.
    """

    kind: Literal["basic", "joblib", "slurm"] = "basic"
    jobs: int = 2
    cluster: Literal["slurm", "local", "debug"] = "slurm"
    partition: Optional[str] = None
    minutes: int = 240
    gpus: int = 1
    cpus: int = 8
    memory_gb: int = 64
    options: Dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Counts that are possible; raises ConfigError."""
        for name, least in (("jobs", 1), ("minutes", 1), ("gpus", 0), ("cpus", 1)):
            check_range(f"hydra.launcher.{name}", getattr(self, name), least)
        check_range("hydra.launcher.memory_gb", self.memory_gb, 1)
        for name in ("nodes", "tasks_per_node"):
            if self.options.get(name, 1) != 1:
                raise ConfigError(
                    f"hydra.launcher.options.{name}={self.options[name]} is not possible: a job of"
                    " a sweep starts its ranks itself, on one machine; leave it out and set"
                    " hydra.launcher.gpus"
                )


@dataclass(frozen=True)
class SweeperSettings:
    """Who chooses the jobs: every combination, or Optuna by ``quality`` and ``cost``.

    ``reference`` is the override of the run that ``distance`` is to; ``seed`` is Optuna's.
    """

    kind: Literal["basic", "optuna"] = "basic"
    trials: int = 20
    quality: str = "distance"
    cost: Literal["nfe", "seconds"] = "nfe"
    reference: str = "schedule=unipc50"
    seed: int = 0
    params: Optional[Dict[str, Any]] = None

    def check(self) -> None:
        """A number of trials; raises ConfigError."""
        check_range("hydra.sweeper.trials", self.trials, 1)


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
