"""The results of a bench: plain values, as written to bench.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pixelwizard.planning.device_rates import DeviceRates


@dataclass(frozen=True)
class StageResult:
    """One stage as it ran, with ``steps`` of its schedule's ``of_steps``, and what was planned.

    ``full_seconds``: the whole schedule, the steps that were left out taking as long as those run.
    """

    name: str
    mode: str
    tokens: int
    steps: int | None
    of_steps: int | None
    seconds: float
    planned_seconds: float
    peak_gb: float
    planned_gb: float
    full_seconds: float
    planned_full_seconds: float


@dataclass(frozen=True)
class ForwardResult:
    """One forward of a transformer and that of the published code, on the same weights.

    Where the latter did not run, ``reference_gb`` is what it needs by tracing and ``note`` says
    why. ``difference``: the largest of the velocities, relative to the largest value.
    """

    name: str
    tokens: int
    seconds: float
    peak_gb: float
    reference_seconds: float | None
    reference_gb: float
    difference: float | None
    note: str = ""


@dataclass(frozen=True)
class SizeResult:
    """All stages at one size."""

    width: int
    height: int
    frames: int
    stages: tuple[StageResult, ...]
    forwards: tuple[ForwardResult, ...]


@dataclass(frozen=True)
class BenchResult:
    """Everything of one bench."""

    device: str
    versions: dict[str, str]
    backbone: str
    dtype: str
    ceilings: DeviceRates
    sizes: tuple[SizeResult, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
