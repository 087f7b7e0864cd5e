"""The source of a user's class: its module, and the user's modules that this one imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")


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
    for name in _imports(module, file) if is_own(file) else ():
        other = _file(name) if name not in seen and is_own(_file(name.partition(".")[0])) else None
        if other is not None:
            _collect(name, other, found, seen)
    found[module] = file


def _imports(module: str, file: Path) -> Iterator[str]:
    """The modules that a file may import, and the packages that they lie in."""
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
    """The file of a module, without importing more than the packages that it lies in."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    path = Path(found.origin) if found and found.origin else None
    return path if path is not None and path.is_file() else None


def is_own(file: Path | None) -> bool:
    """Whether a file is the user's: neither installed nor of this package."""
    if file is None or file.suffix != ".py":
        return False
    places = [PACKAGE, *(Path(sysconfig.get_path(name)) for name in INSTALLED)]
    return not any(file.resolve().is_relative_to(place.resolve()) for place in places)
