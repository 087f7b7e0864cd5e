"""The parameters of a metric's ``update``. Imports no torch."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from pixelwizard.config.schema import ConfigError

if TYPE_CHECKING:
    from torchmetrics import Metric

ASKED = ("caption", "reference", "target", "clip", "pair")
"""What ``update`` may ask for besides the frames."""


def asked(metric: type[Metric]) -> tuple[bool, dict[str, bool]]:
    """Whether ``update`` wants frames; what else it asks for, and whether it needs that."""
    parameters = [*inspect.signature(metric.update).parameters.values()][1:]
    named = {p.name: p.default is p.empty for p in parameters if p.name in ASKED}
    return bool(parameters) and parameters[0].name not in ASKED, named


def check_metric(metric: type[Metric], key: str) -> None:
    """Refuse a metric whose scores could not be read, or that asks for what nobody has."""
    name = f"{metric.__module__}.{metric.__qualname__}"
    if metric.higher_is_better is None:
        raise ConfigError(f"{key}: {name} must say higher_is_better = True or False")
    parameters = [*inspect.signature(metric.update).parameters.values()][1:]
    rest = [p for p in parameters[asked(metric)[0] :] if p.name not in ASKED]
    for p in rest:
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ConfigError(
                f"{key}: {name}.update asks for {p.name!r}, which no video has; after the frames it"
                f" may ask for {', '.join(ASKED)}"
            )
