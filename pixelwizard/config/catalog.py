"""Configuration files and their options, read from the folders without Hydra.

The user's folders are laid out like ``conf`` and come first, so a user's file overrides a shipped
one of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from pixelwizard.config import tasks
from pixelwizard.config.schema import ConfigError, leaves

PACKAGE = Path(__file__).resolve().parents[1]
EXPERIMENTS = "experiments"


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
    """The config groups of a task: folders that fill a key of its root dataclass.

    ``own`` are the user's folders; a group inside a group (``metrics/extra``) fills a key below.
    """
    root = tasks.roots()[task]
    top = [field.name for field in fields(root)]
    found = [key for key in top if any((conf / key).is_dir() for conf in (*own, shipped()))]
    composed = [EXPERIMENTS] if "run_dir" in top else []
    inner = [key.replace(".", "/") for key in leaves(root) if "." in key]
    return found + composed + [key for key in inner if any((conf / key).is_dir() for conf in own)]


def options(group: str, own: Sequence[Path] = ()) -> list[str]:
    """The names that ``group=NAME`` can take."""
    return sorted({path.stem for path in _files(group, own)})


def replaced(group: str, name: str, own: Sequence[Path]) -> str:
    """The remark on an option that two files define, of which the first wins; else empty."""
    found = [path for path in _files(group, own) if path.stem == name]
    return f"{group}={name} is {found[0]}, not {found[-1]}" if len(found) > 1 else ""


def _files(group: str, own: Sequence[Path]) -> Iterator[Path]:
    """The files of a group, the user's first."""
    roots = experiment_roots() if group == EXPERIMENTS else []
    for root in (*own, *roots, shipped()):
        yield from (path for path in (root / group).glob("*.yaml") if path.is_file())


def own_files(own: Sequence[Path]) -> Iterator[Path]:
    """Every user's file that Hydra may read."""
    experiments = [Path.cwd() / EXPERIMENTS] if Path.cwd() != asset_root(EXPERIMENTS) else []
    for folder in (*own, *experiments):
        yield from (path for path in folder.rglob("*.yaml") if path.is_file())
