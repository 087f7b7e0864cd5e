"""Fields of the settings, with their range, kind and role as metadata.

The marks of a field, kept in its metadata:

``low``, ``high``  the range of a number, or of every number of a list; None is always allowed
``path``           a path, made absolute, so a run does not depend on the working directory;
                   or the words that are no paths
``incidental``     it changes no result: places, records, limits of progress
``names_run``      the choice of this group is part of the default run folder's name, in this order
``of_latents``     encoded latents must share it with the training that reads them
``of_sample``      it differs between the samples of one variant
``only_for``       the kinds of its group that use it
``later``          a field added after results were stored: its default is in no key
``door``, ``stays``  see ``pixelwizard.config.targets``
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from pixelwizard.config.schema import ConfigError, check_range, join, show, types_of, visible
from pixelwizard.config.targets import DOOR, STAY

MARKS = {"low", "high", "path", "incidental", "names_run", "of_latents", "of_sample", "only_for"}
MARKS |= {"later", STAY, DOOR}


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


def is_below(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of ``keys``, or lies below one."""
    return any(f"{key}.".startswith(f"{one}.") for one in keys)


def check(settings: Any, key: str = "") -> None:
    """Check the ranges of numbers, then call the method ``check(key)`` of every group.

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
    if hasattr(settings, "check"):
        settings.check(key)


def check_kind(settings: Any, key: str, kind: str) -> None:
    """Refuse a value, other than the default, that has no meaning for this kind of a group."""
    plain = type(settings)()
    for field in visible(type(settings)):
        value, owners = getattr(settings, field.name), field.metadata.get("only_for", kind)
        if kind not in owners and value != getattr(plain, field.name):
            one_of = " or ".join(f"{key.replace('.', '/')}={owner}" for owner in owners)
            raise ConfigError(f"{key}.{field.name}={show(value)} is for {one_of}; leave it out")
