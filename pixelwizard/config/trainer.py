"""Lightning's Trainer in the settings: its arguments, under their own names.

An argument is a field here if pixelwizard has its own default, check or meaning for it. All other
arguments of the Trainer are accepted too, checked against its signature. No torch by itself.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pkgutil import resolve_name
from typing import Any, ClassVar, Literal, Optional, Union, get_args, get_origin, get_type_hints

from pixelwizard.config.schema import (
    ConfigError,
    build,
    check_range,
    join,
    setting,
    show,
    to_plain,
    types_of,
    unknown,
)
from pixelwizard.config.targets import Door, Part, Target, door_of

TRAINER = "lightning.pytorch.Trainer"
PROFILER = "lightning.pytorch.profilers.Profiler"
PROFILERS = ("simple", "advanced", "pytorch")
ANSWERS = {
    **dict.fromkeys(("accelerator", "devices", "num_nodes", "strategy"), "parallel"),
    **dict.fromkeys(("plugins", "use_distributed_sampler", "sync_batchnorm"), "parallel"),
    "callbacks": "callbacks.NAME",
    "logger": "tracker and tracker.logger",
    "default_root_dir": "run_dir",
}
"""What is set elsewhere, for every task."""
TRAINING_ANSWERS = {
    **ANSWERS,
    "gradient_clip_val": "optimizer.clip",
    "gradient_clip_algorithm": "optimizer.clip, the norm",
    **dict.fromkeys(("enable_checkpointing", "val_check_interval"), "checkpoint.every"),
    **dict.fromkeys(("check_val_every_n_epoch", "inference_mode"), "checkpoint.every"),
    "reload_dataloaders_every_n_epochs": "data",
    **dict.fromkeys(("max_epochs", "min_epochs"), "trainer.max_steps, as batches have no end"),
    "overfit_batches": "data.count, like data.count=4 data.ready=4",
    "max_minutes": "trainer.max_time, like trainer.max_time={minutes: 80}",
    "accumulate": "trainer.accumulate_grad_batches",
    "log_every": "trainer.log_every_n_steps",
}
"""Arguments that training sets elsewhere, and the names that settings once had."""


@dataclass(frozen=True)
class Duration:
    """A time as Lightning takes it: ``DD:HH:MM:SS``, or ``{minutes: 80}``."""

    minutes: float = setting(1.0, low=0.001)

    @classmethod
    def from_plain(cls, value: Any, key: str) -> Duration:
        """The duration of a text or a node. Raises ConfigError where it is none."""
        try:
            if isinstance(value, Mapping):
                return cls(timedelta(**value).total_seconds() / 60)
            parts = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", str(value))
            days, hours, minutes, seconds = map(int, parts.groups() if parts else ())
        except (TypeError, ValueError):
            raise ConfigError(
                f"{key}={show(value)} must be DD:HH:MM:SS, like 00:01:20:00, or a node like"
                " {minutes: 80}"
            ) from None
        return cls(days * 24 * 60 + hours * 60 + minutes + seconds / 60)


@dataclass(frozen=True)
class LightningSettings:
    """Arguments of the Trainer that any task may have; ``arguments`` are those without a field."""

    profiler: Optional[Part] = setting(
        None, incidental=True, door=Door(PROFILER, words=PROFILERS, offered=("dirpath",))
    )
    arguments: dict[str, Any] = field(default_factory=dict, kw_only=True, metadata={"hidden": True})

    answers: ClassVar[Mapping[str, str]] = ANSWERS

    @classmethod
    def from_plain(cls, node: Any, key: str) -> Any:
        """The settings of a node. Raises ConfigError for what another setting is for."""
        names = types_of(cls)
        if not isinstance(node, Mapping):
            return build(cls, node, key)
        for name in node:
            if name in cls.answers:
                raise ConfigError(f"{join(key, name)} is set by {cls.answers[name]}; use that")
        own = build(cls, {name: node[name] for name in node if name in names}, key)
        rest = {str(name): _whole(node[name]) for name in node if name not in names}
        return replace(own, arguments=rest)

    def to_plain(self, as_key: bool = False) -> dict[str, Any]:
        """The node that gives these settings."""
        own = {name: to_plain(getattr(self, name), as_key) for name in types_of(type(self))}
        return {**own, **to_plain(self.arguments)}

    def check(self, key: str) -> None:
        """Compare the arguments with the Trainer's signature; raises ConfigError.

        Lightning is imported only if there are any.
        """
        hints = get_type_hints(resolve_name(TRAINER).__init__) if self.arguments else {}
        names = [name for name in hints if name not in (*self.answers, "return")]
        for name, value in self.arguments.items():
            if name not in names:
                known = [*types_of(type(self)), *names]
                raise ConfigError(unknown(f"key {join(key, name)!r}", name, known, key))
            if not fits(value, hints[name]):
                rule = inspect.formatannotation(hints[name]).replace("typing.", "")
                given = f"{join(key, name)}={show(value)}"
                raise ConfigError(f"{given} must be what Lightning's Trainer takes: {rule}")

    def keywords(self, folder: str) -> dict[str, Any]:
        """The arguments as the Trainer takes them; a profiler writes into ``folder``."""
        profiler: Any = self.profiler
        if isinstance(profiler, Target):
            made = door_of(LightningSettings, "profiler")
            profiler = made.make(profiler, "trainer.profiler", dirpath=folder)
        return {"profiler": profiler, **self.arguments}


@dataclass(frozen=True)
class PredictionSettings(LightningSettings):
    """Arguments of the Trainer that make sense for ``generate``.

    ``limit_predict_batches`` (a number, or a share as a float) and ``fast_dev_run`` make only the
    first of the unfinished prompts.
    """

    names: ClassVar[tuple[str, ...]] = (
        *("benchmark", "deterministic", "fast_dev_run", "limit_predict_batches", "profiler"),
    )

    def check(self, key: str) -> None:
        """As for every task, and nothing that only training has."""
        super().check(key)
        for name in self.arguments:
            if name not in self.names:
                listed = ", ".join(join(key, name) for name in self.names)
                raise ConfigError(f"{join(key, name)} is for train; generate takes {listed}")
        limit = self.arguments.get("limit_predict_batches", 1.0)
        if limit < 0 or isinstance(limit, float) and limit > 1:
            given = f"{join(key, 'limit_predict_batches')}={limit}"
            raise ConfigError(f"{given} must be a number of prompts or a share from 0.0 to 1.0")
        if self.arguments.get("fast_dev_run", 0) < 0:
            check_range(join(key, "fast_dev_run"), self.arguments["fast_dev_run"], 0)

    def limited(self, count: int) -> int:
        """How many of ``count`` prompts the run makes."""
        given = self.arguments.get("limit_predict_batches", 1.0)
        limit = int(count * given) if isinstance(given, float) else int(given)
        return min(count, limit, int(self.arguments.get("fast_dev_run", 0)) or count)

    def keywords(self, folder: str) -> dict[str, Any]:
        """As for every task, but the limit is one of prompts, not of a loop's."""
        found = super().keywords(folder)
        found.pop("limit_predict_batches", None)
        return found


@dataclass(frozen=True)
class TrainerSettings(LightningSettings):
    """How long to train: to ``max_steps`` or ``max_time``, whichever comes first.

    A step is one update, of ``accumulate_grad_batches`` batches. ``max_time`` counts the time of
    the steps over all calls. ``gradient_checkpointing`` recomputes every block in the backward
    instead of keeping its activations. ``threads=0`` leaves the number of threads unchanged.
    """

    max_steps: int = setting(10000, low=1, incidental=True)
    max_time: Optional[Duration] = setting(None, incidental=True)
    accumulate_grad_batches: int = setting(1, low=1)
    gradient_checkpointing: bool = setting(False, incidental=True)
    threads: int = setting(0, low=0, incidental=True)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    log_every_n_steps: int = setting(10, low=1, incidental=True)

    answers: ClassVar[Mapping[str, str]] = TRAINING_ANSWERS

    @property
    def minutes(self) -> float | None:
        """The limit of ``max_time``."""
        return self.max_time.minutes if self.max_time else None


def own_callbacks(config: Any) -> dict[str, Any]:
    """The user's Lightning callbacks, by the names that a task's ``callbacks`` gives them."""
    made = door_of(type(config), "callbacks")
    return {n: made.make(part, f"callbacks.{n}") for n, part in config.callbacks.items()}


def culprit(error: BaseException, callbacks: Mapping[str, Any]) -> str | None:
    """The name of the callback whose method raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    owners = [frame.f_locals.get("self") for frame in frames]
    return next((n for n, one in callbacks.items() if any(one is o for o in owners)), None)


def lightning_trainer(**arguments: Any) -> Any:
    """Lightning's Trainer. Raises ConfigError if its arguments do not fit together."""
    refused = resolve_name("lightning.pytorch.utilities.exceptions.MisconfigurationException")
    try:
        return resolve_name(TRAINER)(**arguments)
    except (refused, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:500]
        raise ConfigError(f"trainer: Lightning refuses its arguments ({said})") from error


def _whole(value: Any) -> Any:
    """A whole float from 2 on as the integer it stands for; up to 1 it may be a share."""
    return int(value) if isinstance(value, float) and value > 1 and value.is_integer() else value


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type; whole numbers are numbers, booleans are not."""
    if get_origin(hint) is Union:
        return any(fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)
