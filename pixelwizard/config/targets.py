"""The doors: a named part of a configuration may be a user's class.

A part is a name (one file of this package) or a node with Hydra's ``_target_: module.Name`` and the
arguments of that class. A door is a field of a settings dataclass that accepts such a part; it
states the base class and the arguments that pixelwizard passes. A class is imported by its full
name, checked, and identified by its source. Nothing here imports torch by itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any, Union

from pixelwizard.config.own_source import is_own, source_digest, source_of
from pixelwizard.config.schema import (
    ConfigError,
    build,
    choice,
    join,
    show,
    to_plain,
    unknown,
    visible,
)

NAME = "name"


@dataclasses.dataclass(frozen=True)
class Target:
    """A part with arguments: a class by its full name ``module.Name``, or a shipped part's name.

    As a node: ``{_target_: heun.Heun, order: 2}`` or ``{name: mask, pattern: "1101"}``.
    """

    path: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_foreign(self) -> bool:
        """Whether the class has a full name, so it is not a shipped one."""
        return "." in self.path

    @classmethod
    def from_plain(cls, node: Any, key: str) -> Part:
        """The part of a node. Raises ConfigError without a valid name."""
        if not isinstance(node, Mapping):
            raise ConfigError(f"{key}={show(node)} must be a node with {TARGET}, or a name")
        named = TARGET if TARGET in node else NAME
        path = node.get(named)
        if not isinstance(path, str) or (named == TARGET) != ("." in path.strip(".")):
            raise ConfigError(
                f"{join(key, named)}={show(path)} must be a shipped name as {join(key, NAME)}, or"
                f" module.Name as {join(key, TARGET)}, like heun.Heun for class Heun in heun.py"
            )
        arguments = {str(name): node[name] for name in node if name != named}
        return cls(path, arguments) if arguments or named == TARGET else path

    def to_plain(self, as_key: bool = False) -> dict[str, Any]:
        """The node that gives this target; as a key with the sha256 of the class's source."""
        node = {TARGET if self.is_foreign else NAME: self.path, **to_plain(self.arguments)}
        return node | ({"source": source_digest(self.path)} if as_key and self.is_foreign else {})


Part = Union[str, Target]
"""A shipped part by its name, or a user's class."""


def title(part: Part) -> str:
    """The name of a part in tables: its short name, or the full name of the class."""
    return part.path if isinstance(part, Target) else part


@dataclasses.dataclass(frozen=True)
class OwnPart:
    """Settings of a group that a user's class may replace: an optimizer, a data source.

    With ``_target_`` in the group, fields marked ``stays`` keep their meaning and every
    other key that was given is an argument of that class. Without it ``target`` is None.
    """

    target: Target | None = dataclasses.field(default=None, kw_only=True, metadata={"hidden": True})

    @classmethod
    def from_plain(cls, node: Any, key: str) -> Any:
        """The settings of a group, with or without a user's class."""
        if not isinstance(node, Mapping) or TARGET not in node:
            return build(cls, node, key)
        stay = [field.name for field in visible(cls) if "stays" in field.metadata]
        ours = build(cls, {name: node[name] for name in node if name in stay}, key)
        rest = {name: node[name] for name in node if name not in stay}
        target: Any = Target.from_plain(rest, key)
        return dataclasses.replace(ours, target=target)

    def to_plain(self, as_key: bool = False) -> dict[str, Any]:
        """The group that gives these settings."""
        fields = visible(type(self))
        if self.target is not None:
            fields = [field for field in fields if "stays" in field.metadata]
        values = {field.name: to_plain(getattr(self, field.name), as_key) for field in fields}
        return {**values, **to_plain(self.target or {}, as_key)}


@dataclasses.dataclass(frozen=True)
class Door:
    """The contract of a part: ``base`` is its class, ``package`` has one file per shipped part.

    ``given`` are the arguments that pixelwizard passes to the part, ``offered`` those
    that it passes if the class accepts them and the node has not set them. ``words`` are names
    that the user of the door handles itself. Base and package are full
    names, so a door can be declared without importing torch.
    """

    base: str
    package: str = ""
    given: tuple[str, ...] = ()
    offered: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The shipped parts, found without importing them."""
        files: Iterable[Path] = ()
        if self.package:
            folder = Path(__file__).parents[1].joinpath(*self.package.split(".")[1:])
            files = (path for path in folder.glob("*.py") if path.stem not in ("__init__", "base"))
        return [*self.words, *sorted(path.stem for path in files)]

    def check_name(self, name: str, key: str) -> None:
        """Refuse the name of no shipped part."""
        if not self.names:
            raise ConfigError(
                f"{key}={name} must be a class by its full name; nearest:"
                f" {key}._target_=module.Name"
            )
        if name not in self.names:
            raise ConfigError(
                f"{choice(key, name, self.names)}; or your own class as {key}._target_"
            )

    def load(self, part: Part, key: str) -> type:
        """The class of a part. Raises ConfigError if the import fails or the base is wrong."""
        base = resolve_name(self.base)
        made = part if isinstance(part, Target) else Target(part)
        if made.is_foreign:
            found = located(made.path, key)
            _check_class(found, base, f"{join(key, TARGET)}={made.path}")
        else:
            self.check_name(made.path, key)
            found = _only_subclass(importlib.import_module(f"{self.package}.{made.path}"), base)
        self._check_arguments(found, made, key)
        return found

    def _check_arguments(self, found: type, made: Target, key: str) -> None:
        """Arguments that the class takes, none of those passed anyway, all that it needs."""
        if (parameters := parameters_of(found)) is None:
            return
        kinds = {name: parameter.kind for name, parameter in parameters.items()}
        takes_any = inspect.Parameter.VAR_KEYWORD in kinds.values()
        own = [name for name in parameters if name not in self.given]
        for name in self.given:
            if name not in parameters and not takes_any:
                raise ConfigError(f"{key}: {made.path} must take {name}, which pixelwizard passes")
        for name in made.arguments:
            place = join(key, name)
            if name in self.given:
                raise ConfigError(f"{place} is passed by pixelwizard itself; leave it out")
            if name not in parameters and not takes_any:
                raise ConfigError(unknown(f"argument {place!r}", name, own, made.path))
        several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        for name in own:
            needed = parameters[name].default is inspect.Parameter.empty
            passed = name in (*made.arguments, *self.offered)
            if needed and kinds[name] not in several and not passed:
                raise ConfigError(f"{join(key, name)} is missing; {made.path} needs it")

    def make(self, part: Part, key: str, **given: Any) -> Any:
        """An instance of a part; an error of a user's class names that class."""
        made, found = part if isinstance(part, Target) else Target(part), self.load(part, key)
        taken = parameters_of(found) or {}
        given = {k: v for k, v in given.items() if k not in self.offered or k in taken}
        try:
            return found(**{**given, **made.arguments})
        except Exception as error:
            if not made.is_foreign or isinstance(error, ConfigError):
                raise
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{key}: {made.path} cannot be made ({reason})") from error


def door_of(settings: type, name: str) -> Door:
    """The door of a field of a settings dataclass."""
    return next(f.metadata["door"] for f in dataclasses.fields(settings) if f.name == name)


def doors(settings: Any, prefix: str = "") -> Iterator[tuple[str, Door, Any]]:
    """Every door below ``settings``: its key, the door, and its value.

    A field of type ``dict`` has a part under every name.
    """
    for field in dataclasses.fields(settings):
        value, key = getattr(settings, field.name), join(prefix, field.name)
        found = field.metadata.get("door")
        if found is not None and isinstance(value, OwnPart):
            yield key, found, value.target
        elif found is not None and isinstance(value, dict):
            yield from ((join(key, name), found, part) for name, part in value.items())
        elif found is not None:
            yield key, found, value
        elif dataclasses.is_dataclass(value):
            yield from doors(value, key)


def check_names(settings: Any) -> None:
    """Refuse the name of a part that is not shipped; raises ConfigError. Imports nothing."""
    for key, found, part in doors(settings):
        if part is not None and not (isinstance(part, Target) and part.is_foreign):
            found.check_name(title(part), key)


def check_doors(settings: Any) -> None:
    """Refuse a part that does not fit its door, before anything is loaded or written.

    Raises ConfigError. This imports the files of users' classes.
    """
    check_names(settings)
    for key, found, part in doors(settings):
        if isinstance(part, Target):
            found.load(part, key)


def targets(settings: Any) -> dict[str, Target]:
    """The user's own classes in a configuration, by key."""
    parts = ((key, part) for key, _, part in doors(settings))
    return {k: part for k, part in parts if isinstance(part, Target) and part.is_foreign}


def _check_class(found: Any, base: type, named: str) -> None:
    """Refuse what is not a subclass of ``base``, or leaves one of its methods open."""
    if not inspect.isclass(found) or not issubclass(found, base):
        raise ConfigError(f"{named} must be a subclass of {base.__module__}.{base.__qualname__}")
    if missing := ", ".join(sorted(getattr(found, "__abstractmethods__", ()))):
        raise ConfigError(f"{named} does not define {missing}")


def _only_subclass(module: ModuleType, base: type) -> type:
    """The class that a shipped file defines."""
    classes = (value for value in vars(module).values() if inspect.isclass(value))
    (found,) = (c for c in classes if c.__module__ == module.__name__ and issubclass(c, base))
    return found


def blamed(settings: Any, error: BaseException) -> str | None:
    """``key=module.Name`` of the user's class in whose source an error arose.

    An error of another process tells its files in its text alone.
    """
    frames = traceback.walk_tb(error.__traceback__)
    files = {frame.f_code.co_filename for frame, _ in frames}
    for key, target in targets(settings).items():
        for file in source_of(target.path.rpartition(".")[0]).values():
            if is_own(file) and (str(file) in files or f'"{file}"' in str(error)):
                return f"{key}={target.path}"
    return None


TARGET = "_target_"
_digests: dict[str, str] = {}
"""Of the user's modules, as they were imported."""


def search_in(folders: Sequence[str]) -> None:
    """Find the user's modules in these folders too, after everything that is installed.

    They are appended: a ``random.py`` next to a configuration never replaces the standard one.
    """
    sys.path.extend(folder for folder in folders if folder not in sys.path)
    importlib.invalidate_caches()


def located(path: str, key: str) -> Any:
    """What the user's ``module.Name`` names; importing it runs the user's file.

    A file that was edited since this process imported it is imported again: its results are stored
    by its digest.
    """
    module, _, name = path.rpartition(".")
    place = f"{join(key, TARGET)}={path}"
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            found = _imported_anew(module, path)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{place}: {module} needs {error.name}, which is missing") from None
        raise ConfigError(
            f"{place}: there is no module {module} on PYTHONPATH, in the working directory or"
            " next to the configuration; put the file there"
        ) from None
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError(f"{place}: {module} cannot be imported ({reason})") from error
    if not hasattr(found, name):
        if module.partition(".")[0] in sys.stdlib_module_names:
            raise ConfigError(
                f"{place}: {module} is a standard module, which yours does not replace;"
                " give your file another name"
            )
        own = [n for n, v in vars(found).items() if inspect.isclass(v) and not n.startswith("_")]
        raise ConfigError(unknown(f"class {path!r} in {key}", name, own, module))
    return getattr(found, name)


def _imported_anew(module: str, path: str) -> ModuleType:
    """A module, executed again with the user's modules that it imports if a source has changed."""
    found, digest = importlib.import_module(module), source_digest(path)
    if _digests.setdefault(module, digest) != digest:
        _digests[module] = digest
        for name in [name for name in source_of(module) if name in sys.modules]:
            found = importlib.reload(sys.modules[name])
    return found


def parameters_of(found: type) -> Mapping[str, inspect.Parameter] | None:
    """The arguments of a class; None of one written in C that does not tell."""
    try:
        return inspect.signature(found).parameters
    except ValueError:
        return None
