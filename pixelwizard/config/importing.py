"""Classes by their full name: imported, checked, identified by their source. No torch by itself."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelwizard.config.schema import ConfigError, join, unknown

TARGET = "_target_"
_digests: dict[str, str] = {}
"""Of the user's modules, as they were imported."""


def source_digest(path: str) -> str:
    """sha256 of the file that holds a class's module; of its name where there is none."""
    origin = _spec(path.rpartition(".")[0])
    if origin is None or not Path(origin).is_file():
        return hashlib.sha256(path.encode()).hexdigest()
    return hashlib.sha256(Path(origin).read_bytes()).hexdigest()


def search_in(folders: Sequence[str]) -> None:
    """Find the user's modules in these folders too, after everything that is installed.

    They are appended: a ``random.py`` next to a configuration never replaces the standard one.
    """
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    importlib.invalidate_caches()


def imported(path: str) -> Any:
    """What ``module.Name`` of pixelwizard or a library it depends on names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def located(path: str, key: str) -> Any:
    """What the user's ``module.Name`` names; importing it runs the user's file.

    A file that was edited since this process imported it is imported again: its results are stored
    by its digest.
    """
    module, _, name = path.rpartition(".")
    place = f"{join(key, TARGET)}={path}"
    try:
        found, digest = importlib.import_module(module), source_digest(path)
        if _digests.setdefault(module, digest) != digest:
            found, _digests[module] = importlib.reload(found), digest
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{place}: {module} needs {error.name}, which is missing") from None
        raise ConfigError(
            f"{place}: there is no module {module} on PYTHONPATH, in the working directory or"
            " next to the configuration; put the file there"
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{place}: {module} cannot be imported ({reason})") from error
    if not hasattr(found, name):
        if module.partition(".")[0] in sys.stdlib_module_names:
            raise ConfigError(
                f"{place}: {module} is a module of Python's own, which yours does not replace;"
                " give your file another name"
            )
        own = [n for n, v in vars(found).items() if inspect.isclass(v) and not n.startswith("_")]
        raise ConfigError(unknown(f"class {path!r} in {key}", name, own, module))
    return getattr(found, name)


def check_class(found: Any, base: type, path: str, key: str) -> None:
    """Refuse what is not a subclass of ``base``, or leaves one of its methods open."""
    if not inspect.isclass(found) or not issubclass(found, base):
        raise ConfigError(
            f"{join(key, TARGET)}={path} must be a subclass of"
            f" {base.__module__}.{base.__qualname__}"
        )
    abstract: Any = found
    if inspect.isabstract(abstract):
        missing = ", ".join(sorted(abstract.__abstractmethods__))
        raise ConfigError(f"{join(key, TARGET)}={path} does not define {missing}")


def parameters_of(found: type) -> Mapping[str, inspect.Parameter] | None:
    """The arguments of a class; None of one written in C that does not tell."""
    try:
        return inspect.signature(found).parameters
    except ValueError:
        return None


def check_arguments(
    found: type,
    passed: tuple[Sequence[str], Sequence[str]],
    arguments: Mapping[str, Any],
    path: str,
    key: str,
) -> None:
    """Arguments that the class takes, none of those that are passed anyway, all that it needs.

    ``passed`` are the names that are always passed, and those only to a class that takes them.
    """
    given, offered = passed
    if (parameters := parameters_of(found)) is None:
        return
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds.values()
    own = [name for name in parameters if name not in given]
    for name in given:
        if name not in parameters and not takes_any:
            raise ConfigError(f"{key}: {path} must take {name}, which pixelwizard passes")
    for name in arguments:
        if name in given:
            raise ConfigError(f"{join(key, name)} is passed by pixelwizard itself; leave it out")
        if name not in parameters and not takes_any:
            raise ConfigError(unknown(f"argument {join(key, name)!r}", name, own, path))
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for name in own:
        needed = parameters[name].default is inspect.Parameter.empty
        if needed and kinds[name] not in several and name not in (*arguments, *offered):
            raise ConfigError(f"{join(key, name)} is missing; {path} needs it")


def _spec(module: str) -> str | None:
    """The file of a module."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return found.origin if found else None
