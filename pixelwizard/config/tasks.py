"""Tasks and their root settings: a configuration is read, typed and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

from pixelwizard.config.bench import BenchConfig
from pixelwizard.config.compare import CompareConfig
from pixelwizard.config.data import EncodeConfig
from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.plain import read_yaml
from pixelwizard.config.plan import PlanConfig
from pixelwizard.config.replay import ReplayConfig
from pixelwizard.config.schema import ConfigError, build, choice
from pixelwizard.config.setting import check
from pixelwizard.config.targets import check_names
from pixelwizard.config.train import TrainConfig
from pixelwizard.config.weights import ConvertConfig, FetchConfig

GONE_FROM_TRACKER = (("options", None), ("project", "pixelwizard"))
"""Keys that run folders of earlier versions have, with any value or this one, once its default.

A tracker changes no result.
"""


def roots() -> dict[str, type]:
    """The root dataclass of every task."""

    tasks: tuple[Any, ...] = (GenerateConfig, TrainConfig, EvaluateConfig, PlanConfig, BenchConfig)
    tasks += (EncodeConfig, CompareConfig, FetchConfig, ConvertConfig, ReplayConfig)
    return {root.task: root for root in tasks}


def load(path: Union[str, Path]) -> Any:
    """Read a run folder's ``config.yaml`` into its task's dataclass, checked again.

    Raises ConfigError where the file is not a configuration of this version.
    """
    values = read_yaml(Path(path))
    if isinstance(values, dict) and isinstance(values.get("tracker"), dict):
        tracker = values["tracker"]
        for name, default in GONE_FROM_TRACKER:
            if default in (None, tracker.get(name)):
                tracker.pop(name, None)
    return from_plain(values)


def from_plain(values: Any) -> Any:
    """Plain values to the dataclass that their ``task`` names, with every check applied."""
    task = values.get("task") if isinstance(values, dict) else None
    if task not in roots():
        raise ConfigError(choice("task", task, roots()))
    config: Any = build(roots()[task], values)
    check_names(config)
    check(config)
    return config
