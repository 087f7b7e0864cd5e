"""The doors: a named part of a configuration may be a class of the user's own.

A part is a name, one file of this package, or a node with Hydra's ``_target_: module.Name`` and the
arguments of that class. A door is a field of a settings dataclass that takes such a part; it says
which base class a part has and which arguments it is given. Nothing here imports torch by itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Union

from pixelwizard.config.schema import ConfigError, choice, join, show, to_plain, unknown

TARGET, NAME = "_target_", "name"
DOOR = "door"


@dataclasses.dataclass(frozen=True)
class Target:
    """A part with arguments: a class by its full name ``module.Name``, or a shipped part's name.

    As a node: ``{_target_: heun.Heun, order: 2}`` or ``{name: mask, pattern: "1101"}``.
    """

    path: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_foreign(self) -> bool:
        """Whether the class is named in full, so not one that pixelwizard ships."""
        return "." in self.path

    @classmethod
    def from_plain(cls, node: Mapping[str, Any], key: str) -> Target:
        """The target of a node. Raises ConfigError without a name, or with one that is none."""
        named = TARGET if TARGET in node else NAME
        path = node.get(named)
        if not isinstance(path, str) or (named == TARGET) != ("." in path.strip(".")):
            raise ConfigError(
                f"{join(key, named)}={show(path)} must be a shipped name as {join(key, NAME)}, or"
                f" module.Name as {join(key, TARGET)}, like heun.Heun for class Heun in heun.py"
            )
        return cls(path, {str(name): node[name] for name in node if name != named})

    def to_plain(self) -> dict[str, Any]:
        """The node that gives this target."""
        return {TARGET if self.is_foreign else NAME: self.path, **to_plain(self.arguments)}


Part = Union[str, Target]
"""A shipped part by its name, or a class of the user's."""


def title(part: Part) -> str:
    """What a part is called in tables: its name, or the class in full."""
    return part.path if isinstance(part, Target) else part


@dataclasses.dataclass(frozen=True)
class Door:
    """What a part must be: ``base`` is its class, ``package`` has the shipped ones, a file each.

    ``given`` are the arguments that pixelwizard passes when it makes the part, ``offered`` those
    that it passes to a class that takes them, unless the node has them. Base and package are full
    names, so that a door can be described where torch is not imported.
    """

    base: str
    package: str = ""
    given: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The shipped parts, found without importing them."""
        if not self.package:
            return []
        folder = Path(__file__).parents[1].joinpath(*self.package.split(".")[1:])
        files = (path.stem for path in folder.glob("*.py"))
        return sorted(name for name in files if name not in ("__init__", "base"))

    def check_name(self, name: str, key: str) -> None:
        """Refuse a name that no shipped part has."""
        if name not in self.names:
            raise ConfigError(
                f"{choice(key, name, self.names)}; or a class of your own as {key}._target_"
            )

    def load(self, part: Part, key: str) -> type:
        """The class of a part. Raises ConfigError where it cannot be imported or is another."""
        base = _imported(self.base)
        made = part if isinstance(part, Target) else Target(part)
        if made.is_foreign:
            found = _located(made, key)
            _check_class(found, base, made, key)
        else:
            self.check_name(made.path, key)
            found = _only_subclass(importlib.import_module(f"{self.package}.{made.path}"), base)
        _check_arguments(found, self.given, self.offered, made, key)
        return found

    def make(self, part: Part, key: str, **given: Any) -> Any:
        """An instance of a part; what a user's class raises is named as that class's error."""
        made, found = part if isinstance(part, Target) else Target(part), self.load(part, key)
        taken = _parameters(found) or {}
        given = {k: v for k, v in given.items() if k not in self.offered or k in taken}
        try:
            return found(**{**given, **made.arguments})
        except Exception as error:
            if not made.is_foreign or isinstance(error, ConfigError):
                raise
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{key}: {made.path} cannot be made ({reason})") from error


def door(
    base: str, package: str = "", given: Sequence[str] = (), offered: Sequence[str] = ()
) -> dict[str, Door]:
    """The metadata of a dataclass field that is a door."""
    return {DOOR: Door(base, package, tuple(given), tuple(offered))}


def door_of(settings: type, name: str) -> Door:
    """The door of a field of a settings dataclass."""
    found = {field.name: field for field in dataclasses.fields(settings)}
    made: Door = found[name].metadata[DOOR]
    return made


def doors(settings: Any, prefix: str = "") -> Iterator[tuple[str, Door, Any]]:
    """Every door below ``settings``: its key, the door, and what stands there.

    A field of type ``dict`` has a part under every name.
    """
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), join(prefix, field.name)
        found = field.metadata.get(DOOR)
        if found is not None and isinstance(value, dict):
            yield from ((join(key, name), found, part) for name, part in value.items())
        elif found is not None:
            yield key, found, value
        elif dataclasses.is_dataclass(value):
            yield from doors(value, key)


def check_doors(settings: Any) -> None:
    """Refuse a part that is not what its door needs, before anything is loaded or written.

    Raises ConfigError. Names are compared with the shipped files; only a target is imported.
    """
    for key, found, part in doors(settings):
        if isinstance(part, Target):
            found.load(part, key)
        elif part is not None:
            found.check_name(part, key)


def targets(settings: Any) -> dict[str, Target]:
    """The user's own classes in a configuration, by key."""
    parts = ((key, part) for key, _, part in doors(settings))
    return {k: part for k, part in parts if isinstance(part, Target) and part.is_foreign}


def identity(value: Any) -> Any:
    """Plain values of settings, every target with the sha256 of its source: for keys of results."""
    if isinstance(value, Target):
        source = {"source": source_digest(value)} if value.is_foreign else {}
        return {**value.to_plain(), **source}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: identity(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: identity(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return value


def source_digest(target: Target) -> str:
    """sha256 of the file that holds a target's module; of the module's name where there is none."""
    origin = _spec(target.path.rpartition(".")[0])
    if origin is None or not Path(origin).is_file():
        return hashlib.sha256(target.path.encode()).hexdigest()
    return hashlib.sha256(Path(origin).read_bytes()).hexdigest()


def search_in(folders: Sequence[str]) -> None:
    """Find the user's modules in these folders too, after everything that is installed.

    They are appended: a ``random.py`` beside a configuration never replaces the standard library's.
    """
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def _only_subclass(module: ModuleType, base: type) -> type:
    """The class that a shipped file is about."""
    classes = (value for value in vars(module).values() if inspect.isclass(value))
    (found,) = (c for c in classes if c.__module__ == module.__name__ and issubclass(c, base))
    return found


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _located(target: Target, key: str) -> Any:
    """What a target names; importing it runs the user's file."""
    module, _, name = target.path.rpartition(".")
    place = f"{join(key, TARGET)}={target.path}"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{place}: {module} needs {error.name}, which is missing") from None
        raise ConfigError(
            f"{place}: there is no module {module} on PYTHONPATH, in the working directory or"
            " beside the configuration; put the file there"
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{place}: {module} cannot be imported ({reason})") from error
    if not hasattr(imported, name):
        if module.partition(".")[0] in sys.stdlib_module_names:
            raise ConfigError(
                f"{place}: {module} is a module of Python's own, which yours does not replace;"
                " give your file another name"
            )
        own = [n for n, v in vars(imported).items() if inspect.isclass(v) and not n.startswith("_")]
        raise ConfigError(unknown(f"class {target.path!r} in {key}", name, own, module))
    return getattr(imported, name)


def _check_class(found: Any, base: type, target: Target, key: str) -> None:
    if not inspect.isclass(found) or not issubclass(found, base):
        raise ConfigError(
            f"{join(key, TARGET)}={target.path} must be a subclass of"
            f" {base.__module__}.{base.__qualname__}"
        )
    abstract: Any = found
    if inspect.isabstract(abstract):
        missing = ", ".join(sorted(abstract.__abstractmethods__))
        raise ConfigError(f"{join(key, TARGET)}={target.path} does not define {missing}")


def _parameters(found: type) -> Mapping[str, inspect.Parameter] | None:
    """The arguments of a class; None of one written in C that does not tell."""
    try:
        return inspect.signature(found).parameters
    except ValueError:
        return None


def _check_arguments(
    found: type, given: Sequence[str], offered: Sequence[str], target: Target, key: str
) -> None:
    """Arguments that the class takes, none of those that are passed anyway, all that it needs."""
    if (parameters := _parameters(found)) is None:
        return
    kinds = {p.kind for p in parameters.values()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    own = [name for name in parameters if name not in given]
    for name in target.arguments:
        if name in given:
            raise ConfigError(f"{join(key, name)} is passed by pixelwizard itself; leave it out")
        if name not in parameters and not takes_any:
            raise ConfigError(unknown(f"argument {join(key, name)!r}", name, own, target.path))
    for name, parameter in parameters.items():
        needed = parameter.default is inspect.Parameter.empty
        needed = needed and parameter.kind not in (
            inspect.Parameter.VAR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        if needed and name not in (*given, *offered) and name not in target.arguments:
            raise ConfigError(f"{join(key, name)} is missing; {target.path} needs it")


def _spec(module: str) -> str | None:
    """The file of a module."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return found.origin if found else None
