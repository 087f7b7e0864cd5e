"""What a bench finds: plain values, as they stand in bench.json, and their tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pixelwizard.io import terminal
from pixelwizard.io.terminal import STAGES as ALL
from pixelwizard.planning.device import DeviceRates

STAGES = (
    *("stage", "weights", "counted from", "s", "plan s", "GB", "plan GB", "GB / plan"),
    *("all steps s", "plan s"),
)
PEERS = (
    *("network", "dtype", "size", "s", "diffusers s", "faster"),
    *("memory U", "diffusers U", "difference"),
)
FORWARDS = (
    *("forward", "tokens", "s", "reference s", "faster"),
    *("GB", "reference GB", "memory", "difference"),
)


@dataclass(frozen=True)
class StageResult:
    """One stage as it ran, with ``steps`` of its schedule's ``of_steps``, and what was planned.

    The steps of a decode are latent frames. ``full_seconds``: the whole schedule or clip, where
    those that were left out take as long as those that ran. ``attention``: the kernel that ran,
    where it was chosen by time. ``blocks`` of the network's ``of_blocks`` ran where time was short;
    seconds and bytes are those of all.
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
    attention: str | None = None
    blocks: int | None = None
    of_blocks: int | None = None


@dataclass(frozen=True)
class ForwardResult:
    """One forward of a transformer and that of the published code, on the same weights.

    Where the latter did not run, ``reference_gb`` is what it needs by tracing and ``note`` says
    why. ``difference``: the largest of the velocities, relative to the largest value.
    ``blocks`` of ``of_blocks`` ran where time was short.
    """

    name: str
    tokens: int
    seconds: float
    peak_gb: float
    reference_seconds: float | None
    reference_gb: float
    difference: float | None
    note: str = ""
    blocks: int | None = None
    of_blocks: int | None = None


@dataclass(frozen=True)
class PeerResult:
    """One network and that of diffusers in one dtype.

    ``peak_units``: the most bytes alive besides weights and input; a unit U is a [tokens, dim]
    float32 tensor for a transformer, the float32 video for a decode. ``difference`` as above.
    """

    name: str
    dtype: str
    size: str
    seconds: float
    their_seconds: float
    peak_units: float
    their_peak_units: float
    difference: float


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


def peers_markdown(device: str, versions: dict[str, str], peers: Sequence[PeerResult]) -> str:
    """The comparison with diffusers as a table."""
    rows = [
        (
            *(peer.name, peer.dtype, peer.size),
            *(figure(peer.seconds), figure(peer.their_seconds)),
            f"{peer.their_seconds / peer.seconds:.2f} x",
            *(figure(peer.peak_units), figure(peer.their_peak_units), f"{peer.difference:.1e}"),
        )
        for peer in peers
    ]
    lines = [
        f"# Against diffusers {versions['diffusers']} on {device}",
        "",
        f"The same random weights and inputs, calls in turns, torch {versions['torch']}.",
        "",
        *terminal.markdown([PEERS, *rows]),
        "",
        "On a CPU: processor seconds of one thread. Memory besides weights and input, in units of",
        "a [tokens, dim] float32 tensor or of the float32 video.",
    ]
    return "\n".join(lines) + "\n"


def markdown(result: BenchResult) -> str:
    """The whole report, aligned so that it also reads as tables on a terminal."""
    lines = [
        f"# {result.backbone} in {result.dtype} on {result.device}",
        "",
        "Random weights, torch " + result.versions["torch"] + ". " + _rates(result.ceilings),
    ]
    for size in result.sizes:
        lines += ["", f"## {size.width}x{size.height}, {size.frames} frames", ""]
        lines += terminal.markdown([STAGES, *map(_stage, size.stages)])
        lines += _kernels(size.stages)
        if len(size.stages) == len(ALL):
            lines += ["", _total(size)]
        if size.forwards:
            lines += ["", *terminal.markdown([FORWARDS, *map(_forward, size.forwards)])]
    lines += [
        "",
        "GB alive at most, the stage's network included: by the allocator on a GPU, of live",
        "tensors on a processor. `all steps` counts the steps and latent frames that were left out",
        "like those run. Where a network has more blocks than ran, the seconds and GB of all are",
        "counted from two runs with few blocks.",
        "The reference-shaped forward has the same weights, inputs and attention kernel, but",
        "float32 modulation per token and complex128 positions; it knows no chunks and keeps",
        "nothing between forwards.",
    ]
    return "\n".join(lines) + "\n"


def _rates(rates: DeviceRates) -> str:
    return (
        f"At most {rates.matmul:g} TFLOP/s of matrix products, {rates.attention:g} of"
        f" attention, {rates.conv:g} of convolutions; {rates.memory_tbs:g} TB/s of memory,"
        f" {rates.host_gbs:g} GB/s from the host."
    )


def _stage(stage: StageResult) -> list[str]:
    unit = "latent frames" if stage.name == "decode" else "steps"
    ran = [f"{stage.steps} of {stage.of_steps} {unit}"] if stage.steps else []
    return [
        *(stage.name, stage.mode, ", ".join([*ran, *_blocks(stage)])),
        *(figure(stage.seconds), figure(stage.planned_seconds)),
        *(figure(stage.peak_gb), figure(stage.planned_gb)),
        f"{stage.peak_gb / stage.planned_gb:.2f}",
        *(figure(stage.full_seconds), figure(stage.planned_full_seconds)),
    ]


def _blocks(counted: StageResult | ForwardResult) -> list[str]:
    return [f"{counted.blocks} of {counted.of_blocks} blocks"] if counted.blocks else []


def _kernels(stages: Sequence[StageResult]) -> list[str]:
    """The kernels that were chosen, in a line."""
    named = [f"{stage.attention} for the {stage.name}" for stage in stages if stage.attention]
    return ["", f"Attention, the fastest kernel: {', '.join(named)}."] if named else []


def _forward(forward: ForwardResult) -> list[str]:
    seconds, difference = forward.reference_seconds, forward.difference
    return [
        ", ".join([forward.name, *_blocks(forward)]),
        *(str(forward.tokens), figure(forward.seconds)),
        forward.note if seconds is None else figure(seconds),
        "" if seconds is None else f"{seconds / forward.seconds:.2f} x",
        *(figure(forward.peak_gb), figure(forward.reference_gb)),
        f"{forward.peak_gb / forward.reference_gb:.2f} x",
        "" if difference is None else f"{difference:.1e}",
    ]


def _total(size: SizeResult) -> str:
    seconds = sum(stage.full_seconds for stage in size.stages)
    planned = sum(stage.planned_full_seconds for stage in size.stages)
    peak = max(stage.peak_gb for stage in size.stages)
    return (
        f"A whole video: {figure(seconds)} s counted from these steps, {figure(planned)} s planned;"
        f" peak {figure(peak)} GB."
    )


def figure(value: float) -> str:
    """Three significant digits, no exponent."""
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"
