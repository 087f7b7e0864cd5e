"""Plain values <-> typed dataclasses: keys, types and ranges; every error is one sentence.

The dataclasses of ``pixelwizard.config`` are the schema. Marks of a field, kept in its metadata:

``low``, ``high``  the range of a number, or of every number of a list; None is always allowed
``path``           a path, made absolute, so a run does not depend on the working directory;
                   or the words that are no paths
``incidental``     it changes no result: places, records, limits of progress
``names_run``      the choice of this group is part of the default run folder's name, in this order
``of_latents``     encoded latents must share it with the training that reads them
``of_sample``      it differs between the samples of one variant
``only_for``       the kinds of its group that use it
``later``          a field added after results were stored: its default is in no key
``hidden``         no key sets it
``door``, ``stays``  see ``pixelwizard.config.targets``
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_hints = functools.cache(get_type_hints)


class ConfigError(ValueError):
    """A setting that cannot be used; the text is one sentence naming key, value, rule and fix."""


def build(cls: type[T], values: Any, key: str = "") -> T:
    """Make the dataclass ``cls`` from plain ``values``; missing keys take the dataclass's default.

    Raises ConfigError for an unknown key, a missing one without default, or a wrong type.
    """
    hints = types_of(cls)
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{key or 'the configuration'}={show(values)} must be a group of keys:"
            f" {', '.join(hints)}"
        )
    for name in values:
        if name not in hints:
            raise ConfigError(unknown(f"key {join(key, str(name))!r}", str(name), hints, key))
    made = {name: convert(values[name], hints[name], join(key, name)) for name in values}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        without = field.default is field.default_factory is dataclasses.MISSING
        if field.name not in made and without:
            raise ConfigError(f"{join(key, field.name)} is missing")
    return cls(**made)


def convert(value: Any, hint: Any, key: str) -> Any:
    """``value`` as the type ``hint``, or ConfigError."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is Literal:
        text = show(value) if isinstance(value, bool) else value
        if text in get_args(hint):
            return text
        raise ConfigError(choice(key, value, [str(option) for option in get_args(hint)]))
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(hint), key)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}={show(value)} must be a list, like {key}=[...]")
        (inner,) = get_args(hint)
        return [convert(item, inner, f"{key}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={show(value)} must be a group of keys")
        _, inner = get_args(hint)
        return {name: convert(item, inner, join(key, str(name))) for name, item in value.items()}
    if hasattr(hint, "from_plain"):
        return hint.from_plain(value, key)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, key)  # type: ignore[arg-type]
    return _scalar(value, hint, key)


def _one_of(value: Any, options: Sequence[Any], key: str) -> Any:
    """``value`` as one of a union: null, a node for what reads nodes, or the plain type."""
    if value is None and type(None) in options:
        return None
    nodes = [option for option in options if hasattr(option, "from_plain")]
    plain = [option for option in options if option is not type(None) and option not in nodes]
    (hint,) = nodes if nodes and isinstance(value, Mapping) else plain or nodes
    return convert(value, hint, key)


NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)
"""A number as text, as an environment variable gives it."""


def _scalar(value: Any, hint: type, key: str) -> Any:
    if hint in (int, float) and isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value) if set(value) & set(".eE") else int(value[:400])
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    whole = number and (isinstance(value, int) or value.is_integer() and abs(value) < 2**53)
    if hint is int and whole:
        return int(value)
    if hint is float and number and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is str and (isinstance(value, str) or number):
        return str(value)
    rule = {bool: "true or false", int: "an integer", float: "a number", str: "text"}[hint]
    near = f"; nearest: {round(value)}" if hint is int and number and abs(value) < 2**53 else ""
    raise ConfigError(f"{key}={show(value)} must be {rule}{near}")


def defaults(cls: type) -> dict[str, Any]:
    """The defaults of ``cls`` as plain values; keys without a default are left out."""
    plain: dict[str, Any] = {}
    for field in visible(cls):
        if dataclasses.is_dataclass(field.default_factory):
            plain[field.name] = defaults(field.default_factory)
        elif field.default_factory is not dataclasses.MISSING:
            plain[field.name] = to_plain(field.default_factory())
        elif field.default is not dataclasses.MISSING:
            plain[field.name] = to_plain(field.default)
    return plain


def to_plain(value: Any, as_key: bool = False) -> Any:
    """Dataclasses as dictionaries, tuples as lists, other values unchanged.

    ``as_key``: as ``identity`` needs them.
    """
    if hasattr(value, "to_plain"):
        return value.to_plain(as_key)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name), as_key)
            for field in dataclasses.fields(value)
            if not (as_key and "later" in field.metadata)
            or getattr(value, field.name) != field.default
        }
    if isinstance(value, Mapping):
        return {name: to_plain(item, as_key) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, as_key) for item in value]
    return value


def identity(value: Any) -> Any:
    """Plain values of settings, for keys of results: every class with the sha256 of its source.

    Fields that were added later are left out where they have their default.
    """
    return to_plain(value, as_key=True)


def leaves(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of ``cls`` and its type, groups included."""
    found: dict[str, Any] = {}
    for name, hint in types_of(cls).items():
        found[join(prefix, name)] = hint
        if dataclasses.is_dataclass(hint):
            found.update(leaves(hint, join(prefix, name)))  # type: ignore[arg-type]
    return found


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """The dotted keys at which two plain configurations differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = list(dict.fromkeys([*old, *new]))
        return [
            place
            for name in names
            for place in differences(old.get(name), new.get(name), join(key, str(name)))
        ]
    return [] if old == new else [key]


def join(prefix: str, name: str) -> str:
    """The dotted key of ``name`` inside ``prefix``."""
    return f"{prefix}.{name}" if prefix else name


def show(value: Any) -> str:
    """``value`` as one would type it, shortened."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_range(key: str, value: float, low: float, high: float | None = None) -> None:
    """Refuse a number outside ``low <= value <= high``, naming the nearest that is inside."""
    if value < low:
        raise ConfigError(f"{key}={value} must be at least {low}; nearest: {low}")
    if high is not None and value > high:
        raise ConfigError(f"{key}={value} must be at most {high}; nearest: {high}")


def check_pair(key: str, pair: Sequence[float], what: str, low: float = -math.inf) -> None:
    """Refuse anything but two numbers in order from ``low`` on; ``what`` says which they are."""
    if len(pair) != 2 or not low <= pair[0] <= pair[1]:
        raise ConfigError(f"{key}={pair} must be {what}")


def choice(key: str, value: Any, options: Iterable[str]) -> str:
    """The sentence for a ``value`` that is none of ``options``, closest first."""
    options = sorted(options)
    if not options:
        return f"{key}={show(value)} does not exist"
    return f"{key}={show(value)} must be one of {', '.join(options)}{_did_you_mean(value, options)}"


def unknown(what: str, name: str, options: Iterable[str], where: str = "") -> str:
    """The sentence for a name that does not exist, with the closest that does."""
    options = list(options)
    near = _did_you_mean(name, options, where)
    place = f" in {where}" if where else ""
    listed = "" if len(options) > 20 else f" (known{place}: {', '.join(options)})"
    return f"unknown {what}{near}{listed}"


def _did_you_mean(value: Any, options: Iterable[str], where: str = "") -> str:
    close = difflib.get_close_matches(str(value), list(options), n=1, cutoff=0.6)
    return f"; did you mean {join(where, close[0])}?" if close else ""


def visible(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields of a settings dataclass that keys set."""
    return [field for field in dataclasses.fields(cls) if "hidden" not in field.metadata]


def takes_node(hint: Any) -> bool:
    """Whether a key of this type may have keys chosen by the user below it."""
    options = get_args(hint) or (hint,)
    return hint is Any or get_origin(hint) is dict or any(hasattr(o, "from_plain") for o in options)


def types_of(cls: type) -> dict[str, Any]:
    """The types of the fields that keys set."""
    hints = _hints(cls)
    return {field.name: hints[field.name] for field in visible(cls)}


MARKS = {"low", "high", "path", "incidental", "names_run", "of_latents", "of_sample", "only_for"}
MARKS |= {"later", "stays", "door"}


def setting(default: Any, **marks: Any) -> Any:
    """A dataclass field with its marks; ``default`` is a value or a settings dataclass."""
    assert marks.keys() <= MARKS, marks
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=marks)
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=marks)
    return dataclasses.field(default=default, metadata=marks)


def marked(settings: type, mark: str, prefix: str = "") -> dict[str, Any]:
    """The dotted keys of a settings dataclass whose fields have a mark, none below another."""
    found, hints = {}, types_of(settings)
    for field in visible(settings):
        key = join(prefix, field.name)
        if mark in field.metadata:
            found[key] = field.metadata[mark]
        elif dataclasses.is_dataclass(hints[field.name]):
            found |= marked(hints[field.name], mark, key)
    return found


def make_paths_absolute(values: dict[str, Any], settings: type) -> None:
    """Make the paths in the plain ``values`` of some settings absolute. Raises ConfigError."""
    for key, words in marked(settings, "path").items():
        _make_absolute(values, key, () if words is True else words)


def _make_absolute(values: dict[str, Any], key: str, words: Sequence[str]) -> None:
    *groups, name = key.split(".")
    for group in groups:
        values = values.get(group, {})
        if not isinstance(values, dict):
            return
    path = values.get(name)
    if isinstance(path, list):
        values[name] = [str(Path.cwd() / Path(str(one)).expanduser()) for one in path]
    elif isinstance(path, str) and path in words:
        return
    elif isinstance(path, str) and path.strip():
        values[name] = str(Path.cwd() / Path(path).expanduser())
    elif path is not None and not isinstance(path, (int, float)):
        raise ConfigError(f"{key} is empty; give a path or leave it out")


def is_below(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of ``keys``, or lies below one."""
    return any(f"{key}.".startswith(f"{one}.") for one in keys)


def check(settings: Any, key: str = "") -> None:
    """Check the ranges of numbers and the kind of every group, then call its ``check(key)``.

    Inner groups come first. Raises ConfigError.
    """
    for field in visible(type(settings)):
        value, place = getattr(settings, field.name), join(key, field.name)
        if {"low", "high"} & field.metadata.keys() and value is not None:
            low, high = field.metadata.get("low", -math.inf), field.metadata.get("high")
            for number in value if isinstance(value, list) else [value]:
                check_range(place, number, low, high)
        if dataclasses.is_dataclass(value):
            check(value, place)
    if hasattr(settings, "kind"):
        _check_kind(settings, key)
    if hasattr(settings, "check"):
        settings.check(key)


def changed(settings: Any) -> dict[str, Any]:
    """The values of a group that are not its defaults, by field."""
    plain = type(settings)()
    values = {name: getattr(settings, name) for name in types_of(type(settings))}
    return {name: value for name, value in values.items() if value != getattr(plain, name)}


def _check_kind(settings: Any, key: str) -> None:
    """Refuse a value, other than the default, that has no meaning for this kind of a group."""
    given, owners = changed(settings), marked(type(settings), "only_for")
    for name in [name for name in given if settings.kind not in owners.get(name, settings.kind)]:
        one_of = " or ".join(f"{key.replace('.', '/')}={owner}" for owner in owners[name])
        raise ConfigError(f"{key}.{name}={show(given[name])} is for {one_of}; leave it out")
