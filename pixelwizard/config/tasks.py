"""Tasks, their root settings, and the configuration files that fill them, read without Hydra.

A text of any origin becomes plain values: no code, no nesting without end, no alias bomb. The
user's folders are laid out like ``conf`` and come first, so a user's file overrides a shipped one
of the same name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_origin

import yaml

from pixelwizard.config.backbone import ConvertConfig, FetchConfig
from pixelwizard.config.evaluate import CompareConfig, EvaluateConfig, TableConfig
from pixelwizard.config.generate import GenerateConfig, MemorySettings, PlanConfig, StagesSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.output import DecodeSettings
from pixelwizard.config.schema import ConfigError, build, check, choice, leaves, setting
from pixelwizard.config.targets import check_names
from pixelwizard.config.train import EncodeConfig, TrainConfig


@dataclass(frozen=True)
class BenchSettings:
    """The numbers of steps that run in each schedule; the other steps are extrapolated from them.

    The longest stages are extrapolated from few of their blocks if everything would take longer
    than ``minutes``.
    """

    anchor_steps: int = setting(5, low=1)
    detail_steps: int = setting(2, low=1)
    minutes: float = setting(8.0, low=0.0)


@dataclass(frozen=True)
class BenchConfig(StagesSettings):
    """Everything that determines one ``bench``: networks of random weights at one or two sizes.

    ``against=diffusers`` compares networks of fixed sizes with diffusers' instead of the stages.
    """

    task: Literal["bench"] = "bench"
    second: Optional[ResolutionSettings] = None
    memory: MemorySettings = setting(MemorySettings)
    decode: DecodeSettings = setting(DecodeSettings)
    bench: BenchSettings = setting(BenchSettings, names_run=0)
    against: Literal["reference", "diffusers"] = "reference"
    format: Literal["text", "json"] = setting("text", incidental=True)

    def check(self, key: str = "") -> None:
        """Refuse values that cannot work together; raises ConfigError."""
        self.backbone.refuse_quantised("bench")
        for whole in self.wholes():
            whole.check()

    def wholes(self) -> Iterator[PlanConfig]:
        """What is measured, with whole schedules: one size after the other."""
        names = ["run_dir", "backbone", "anchor", "schedule", "memory", "decode", "attention"]
        names.append("compile")
        shared: dict[str, Any] = {name: getattr(self, name) for name in names}
        for size in (self.resolution, self.second):
            if size is not None:
                yield PlanConfig(**shared, resolution=size)

    def shortened(self, whole: PlanConfig) -> PlanConfig:
        """The same with the few steps that are run."""
        return replace(
            whole,
            anchor=whole.anchor.first(self.bench.anchor_steps),
            schedule=whole.schedule.first(self.bench.detail_steps),
        )


@dataclass(frozen=True)
class ReplayConfig:
    """The root of ``replay``: a ``file`` that ``generate`` wrote; ``out`` is the new run folder.

    ``trust``: users' classes that the file names may run. ``given``: the path of the clip or
    picture that it was made of, if that was moved.
    """

    task: Literal["replay"] = "replay"
    file: Optional[str] = setting(None, path=True)
    out: Optional[str] = setting(None, path=True)
    trust: bool = False
    given: Optional[str] = setting(None, path=True)


DEEPEST, MOST = 64, 50_000
"""Levels of a file, and values that it may expand to."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The values of a YAML file. Raises OSError without it, ConfigError where it cannot be used."""
    try:
        return yaml.load(check_yaml(path), LOADER)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def check_yaml(path: Path) -> str:
    """The text of a YAML file that is not too large once it is read; errors as of ``read_yaml``.

    Raises YAMLError where it is not YAML.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a file; remove it or give one that is")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    try:
        _check_size(text, path)
    except yaml.YAMLError as error:
        if "maximum nesting depth" not in str(error):  # PyYAML's own bound, from 6.0.4 on
            raise
        raise ConfigError(f"{path} is nested over {DEEPEST} deep; make it flatter") from None
    return text


def parse_json(text: str, what: object) -> Any:
    """The values of a JSON text. Raises ConfigError, naming ``what``, where it cannot be used."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ConfigError(f"{what} is nested over {DEEPEST} deep") from None
    except ValueError:
        raise ConfigError(f"{what} is not JSON") from None
    level = [values]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
    if level:
        raise ConfigError(f"{what} is nested over {DEEPEST} deep")
    return values


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_size(text: str, path: Path) -> None:
    """Count levels and values, those of aliases too, without making them."""
    sizes: dict[str | None, int] = {}
    starts: list[tuple[str | None, int]] = []
    size = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            starts.append((event.anchor, size))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = starts.pop()
            sizes[anchor] = size - start
        elif isinstance(event, yaml.AliasEvent):
            size += sizes.get(event.anchor, MOST)  # one inside its own node has no end
        elif isinstance(event, yaml.ScalarEvent):
            size, sizes[event.anchor] = size + 1, 1
        if len(starts) > DEEPEST:
            raise ConfigError(f"{path} is nested over {DEEPEST} deep; make it flatter")
        if size >= MOST:
            raise ConfigError(f"{path} has over {MOST:,} values, aliases counted; shorten it")


_ROOTS: tuple[Any, ...] = (GenerateConfig, TrainConfig, EvaluateConfig, PlanConfig, BenchConfig)
_ROOTS += (EncodeConfig, CompareConfig, TableConfig, FetchConfig, ConvertConfig, ReplayConfig)
ROOTS: dict[str, type] = {root.task: root for root in _ROOTS}
"""The root dataclass of every task."""
GONE_FROM_TRACKER = (("options", None), ("project", "pixelwizard"))
"""Keys in run folders of earlier versions, ignored if None is here or they have this value.

A tracker changes no result.
"""


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
    if task not in ROOTS:
        raise ConfigError(choice("task", task, ROOTS))
    config: Any = build(ROOTS[task], values)
    check_names(config)
    check(config)
    return config


PACKAGE = Path(__file__).resolve().parents[1]
EXPERIMENTS = "experiments"
FOLDERS = 1000
"""Of a user's configuration, at most: ``/`` given by mistake would be read for minutes."""


def asset_root(name: str) -> Path:
    """The folder that holds ``conf`` or ``experiments``: the wheel's package, or the checkout."""
    for root in (PACKAGE, PACKAGE.parent):
        if (root / name).is_dir():
            return root
    raise FileNotFoundError(
        f"{PACKAGE} has no {name}/, inside or next to it; reinstall pixelwizard"
    )


def shipped() -> Path:
    """The folder ``conf`` of pixelwizard."""
    return asset_root("conf") / "conf"


def own_folders(given: Sequence[str] = ()) -> list[Path]:
    """The user's configuration folders: those of ``--config-dir``, then ``./conf``.

    Raises ConfigError for one that is not a folder or has nothing to choose in it.
    """
    folders = [Path.cwd() / Path(folder).expanduser() for folder in given]
    for folder, text in zip(folders, given, strict=True):
        if not folder.is_dir():
            raise ConfigError(f"--config-dir={text} is not a folder; name one laid out like conf/")
        if not _has_options(folder):
            raise ConfigError(
                f"--config-dir={text} has no GROUP/NAME.yaml; lay it out like conf/, for example"
                f" {text}/schedule/mine.yaml"
            )
    beside = Path.cwd() / "conf"
    found = [*folders, *([beside] if _has_options(beside) and beside != shipped() else [])]
    return list(dict.fromkeys(found))


def _has_options(folder: Path) -> bool:
    return next(folder.glob("*/*.yaml"), None) is not None


def experiment_roots() -> list[Path]:
    """Folders with ``experiments`` next to ``conf``: the working directory comes first."""
    roots = dict.fromkeys((Path.cwd(), asset_root(EXPERIMENTS)))
    return [root for root in roots if (root / EXPERIMENTS).is_dir()]


def groups(task: str, own: Sequence[Path] = ()) -> list[str]:
    """The config groups of a task: folders that fill a key of its root dataclass that is no list.

    ``own`` are the user's folders; a group inside a group (``metrics/extra``) fills a key below.
    """
    root = ROOTS[task]
    hints = leaves(root)
    top = [field.name for field in fields(root) if get_origin(hints.get(field.name)) is not list]
    found = [key for key in top if any((conf / key).is_dir() for conf in (*own, shipped()))]
    composed = [EXPERIMENTS] if "run_dir" in top else []
    inner = [key.replace(".", "/") for key in leaves(root) if "." in key]
    return found + composed + [key for key in inner if any((conf / key).is_dir() for conf in own)]


def options(group: str, own: Sequence[Path] = ()) -> list[str]:
    """The names that ``group=NAME`` can take."""
    return sorted({path.stem for path in _files(group, own)})


def replacements(choices: Mapping[str, Any], own: Sequence[Path]) -> list[str]:
    """A remark on every chosen option that two files define, of which the first wins."""
    files = {
        f"{g}={name}": [p for p in _files(g, own) if p.stem == name] for g, name in choices.items()
    }
    return [f"{o} is {found[0]}, not {found[-1]}" for o, found in files.items() if len(found) > 1]


def _files(group: str, own: Sequence[Path]) -> Iterator[Path]:
    """The files of a group, the user's first."""
    roots = experiment_roots() if group == EXPERIMENTS else []
    for root in (*own, *roots, shipped()):
        yield from (path for path in (root / group).glob("*.yaml") if path.is_file())


def check_sizes(own: Sequence[Path]) -> None:
    """Refuse a user's folder of far too many; raises ConfigError."""
    experiments = [Path.cwd() / EXPERIMENTS] if Path.cwd() != asset_root(EXPERIMENTS) else []
    for folder in (*own, *experiments):
        if len(list(islice(os.walk(folder), FOLDERS + 1))) > FOLDERS:
            raise ConfigError(
                f"{folder} has over {FOLDERS} folders below it; name a folder laid out like conf/"
            )
