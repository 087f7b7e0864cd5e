"""A plan: every stage as it will run, what it needs, and the text that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pixelwizard.config.parallel import SINGLE, Mesh
from pixelwizard.io.terminal import aligned


@dataclass(frozen=True)
class StagePlan:
    """One stage as it will run on each rank. ``seconds``: one clip; ``peak_gb``: with the weights.

    ``mode`` is resident, offload, stream or sharded; ``chunk`` tokens go through a layer of a
    transformer together; ``tiles`` of the decode: [rows, columns]; ``attention``: what computes it
    on this machine, where that is chosen by time; ``lean``: for one head at a time; ``paired``:
    both passes of a guided step are one batch; ``features``: where those of the anchor are, device
    or host. ``sent_gb`` go to other ranks; ``sending_seconds`` of the ``seconds`` pass waiting for
    them. ``seconds`` are what is expected, ``limit_seconds`` what it would take at the device's
    best rates. ``host_gb`` are held in host memory besides the program itself, ``kept_gb`` of them
    also while other stages run. ``loading_seconds``: from the weights' file, once for a group of
    prompts.
    """

    name: str
    tokens: int
    tflop: float
    weights_gb: float
    activations_gb: float
    peak_gb: float
    seconds: float
    limit_seconds: float
    mode: str
    fits: bool = True
    chunk: int | None = None
    tiles: list[int] | None = None
    attention: str | None = None
    paired: bool = False
    features: str | None = None
    lean: bool = False
    sent_gb: float = 0.0
    sending_seconds: float = 0.0
    host_gb: float = 0.0
    kept_gb: float = 0.0
    loading_seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """All stages, with the device whose rates were used and the memory budget.

    ``refusal``: one sentence saying which stage does not fit and what would; None if all fit.
    ``parallel``: the ranks of the run, of which every stage shows one. ``writing_seconds``: of the
    video's file, while it is decoded.
    """

    device: str
    budget_gb: float | None
    stages: tuple[StagePlan, ...]
    refusal: str | None
    parallel: Mesh = SINGLE
    writing_seconds: float = 0.0

    @property
    def by_name(self) -> Mapping[str, StagePlan]:
        """The stages by name: text, anchor, detail, decode."""
        return {stage.name: stage for stage in self.stages}

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        totals = {n: getattr(self, n) for n in ("seconds", "loading_seconds", "host_gb")}
        return {**asdict(self), **totals}

    @property
    def seconds(self) -> float:
        """One video, with what its file takes longer than its decode; weights are loaded before."""
        decode = self.by_name.get("decode")
        longer = max(0.0, self.writing_seconds - decode.seconds) if decode else 0.0
        return sum(stage.seconds for stage in self.stages) + longer

    @property
    def loading_seconds(self) -> float:
        """All weights, once for a group of prompts."""
        return sum(stage.loading_seconds for stage in self.stages)

    @property
    def host_gb(self) -> float:
        """The most that is held in host memory at once."""
        kept = sum(stage.kept_gb for stage in self.stages)
        return kept + max(stage.host_gb - stage.kept_gb for stage in self.stages)


def details(stage: StagePlan) -> list[str]:
    """Chunks, attention or tiles in words."""
    if stage.chunk:
        kernel = [f"attention {stage.attention}"] if stage.attention else []
        heads = ["one head at a time"] if stage.lean else []
        passes = ["both passes at once"] if stage.paired else []
        features = ["anchor features in host memory"] if stage.features == "host" else []
        return [f"chunks of {stage.chunk} tokens", *heads, *passes, *features, *kernel]
    if stage.tiles:
        rows, columns = stage.tiles
        return ["whole frames" if rows * columns == 1 else f"{rows} x {columns} tiles"]
    return []


def table(plan: Plan) -> str:
    """The plan as text."""
    several = plan.parallel.per_prompt > 1 or plan.parallel.shards > 1
    limits = any(stage.seconds != stage.limit_seconds for stage in plan.stages)
    head = ["stage", "tokens", "TFLOP", "weights", "activations", "peak GB", "host GB"]
    head += [*(["limit s", "expected s"] if limits else ["seconds"]), "loading s"]
    rows: list[tuple[str, ...]] = [(*head, *["sending"] * several, "how")]
    for stage in plan.stages:
        how = [stage.mode, *details(stage), *([] if stage.fits else ["DOES NOT FIT"])]
        times = [stage.limit_seconds] * limits + [stage.seconds, stage.loading_seconds]
        memory = (stage.weights_gb, stage.activations_gb, stage.peak_gb, stage.host_gb)
        shown = [f"{figure:.2f}" for figure in (*memory, *times)]
        if several:
            shown.append(f"{stage.sending_seconds / max(stage.seconds, 1e-9):.1%}")
        rows.append((stage.name, f"{stage.tokens}", f"{stage.tflop:.1f}", *shown, ", ".join(how)))
    lines = aligned(rows, left=(0, 9 + several + limits))
    peak = max(stage.peak_gb for stage in plan.stages)
    budget = f", budget {plan.budget_gb:g} GB" if plan.budget_gb else ""
    host = f"peak {peak:.1f} GB{budget}, {plan.host_gb:.1f} GB of host memory"
    lines.append(f"one video: {plan.seconds:.0f} s on {plan.device}, {host}")
    if "decode" in plan.by_name:
        lines.append(
            f"video file: {plan.writing_seconds:.0f} s during the decode; loading weights:"
            f" {plan.loading_seconds:.0f} s per group of prompts"
        )
    mesh = plan.parallel
    if mesh.world > 1:
        sizes = f"{mesh.prompts} prompts x {mesh.guidance} guidance x {mesh.sequence} sequence"
        why = f" ({mesh.reason})" if mesh.reason else ""
        lines.append(f"on each of {mesh.world} ranks, {sizes}{why}")
    return "\n".join(lines)
