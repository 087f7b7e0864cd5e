"""The source of a user's class: its module, and the user's modules that this one imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages, also of environments that this one sees."""


def source_digest(path: str) -> str:
    """sha256 of the source of ``module.Name``; of the name itself where no file holds it.

    A module that imports others of the user's has the digest of them all.
    """
    found = source_of(path.rpartition(".")[0])
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    text = "\n".join(f"{name} {digests[name]}" for name in sorted(digests)) or path
    return hashlib.sha256(text.encode()).hexdigest()


def source_of(module: str) -> dict[str, Path]:
    """The files of a module and of the user's modules that it imports, those first, by name."""
    found: dict[str, Path] = {}
    if (file := _file(module)) is not None:
        _collect(module, file, found, set())
    return found


def _collect(module: str, file: Path, found: dict[str, Path], seen: set[str]) -> None:
    seen.add(module)
    for name in _imports(module, file, file.stat().st_mtime_ns) if is_own(file) else ():
        other = _file(name) if name not in seen and is_own(_place(name.partition(".")[0])) else None
        if other is not None:
            _collect(name, other, found, seen)
    found[module] = file


@lru_cache
def _imports(module: str, file: Path, changed: int) -> tuple[str, ...]:
    """The modules that a file, last ``changed`` then, may import, and the packages around them."""
    return tuple(dict.fromkeys(_named(module, file)))


def _named(module: str, file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _file(module: str) -> Path | None:
    """The file of a module; None where it has none."""
    place = _place(module)
    return place if place is not None and place.is_file() else None


def _place(module: str) -> Path | None:
    """The file of a module, or the folder of a package without one.

    Imports no more than the packages that it lies in.
    """
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    folders = list(found.submodule_search_locations or ()) if found else []
    origin = found.origin if found and found.origin else next(iter(folders), None)
    return None if origin is None else Path(origin)


def is_own(place: Path | None) -> bool:
    """Whether a file or folder is the user's: not installed, nor of this package."""
    if place is None or not (place.suffix == ".py" or place.is_dir()):
        return False
    path = place.resolve()
    installed = INSTALLED.intersection(path.parts)
    return not installed and not any(path.is_relative_to(p) for p in (PACKAGE, STANDARD))
