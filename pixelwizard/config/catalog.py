"""Where the configuration files are, and what can be chosen: read from the folders, no Hydra."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from pixelwizard.config import tasks

PACKAGE = Path(__file__).resolve().parents[1]


def asset_root(name: str) -> Path:
    """The folder that holds ``conf`` or ``experiments``: the wheel's package, or the checkout."""
    for root in (PACKAGE, PACKAGE.parent):
        if (root / name).is_dir():
            return root
    raise FileNotFoundError(f"{name}/ is neither in {PACKAGE} nor beside it; reinstall pixelwizard")


def search_roots() -> list[Path]:
    """Folders that may hold ``experiments`` besides ``conf``: the working directory comes first."""
    own = Path.cwd()
    roots = [own] if (own / "experiments").is_dir() else []
    shipped = asset_root("experiments")
    return roots if shipped in roots else [*roots, shipped]


def groups(task: str) -> list[str]:
    """The config groups of a task: folders of ``conf`` that fill a key of its root dataclass."""
    conf = asset_root("conf") / "conf"
    keys = [field.name for field in fields(tasks.roots()[task])]
    composed = ["experiments"] if "run_dir" in keys else []
    return [key for key in keys if (conf / key).is_dir()] + composed


def options(group: str) -> list[str]:
    """The names that ``group=NAME`` can take."""
    folders = [root / group for root in search_roots()] if group == "experiments" else []
    folders.append(asset_root("conf") / "conf" / group)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
