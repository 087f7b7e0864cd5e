"""The predicted speed-up of more devices: plans for increasing numbers of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pixelwizard.config.generate import SamplingSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.parallel import ParallelSettings, resolve
from pixelwizard.io.terminal import aligned
from pixelwizard.planning.planner import make_plan

COUNTS = (1, 2, 4, 8, 16)
NOTE = "predicted for parallel=auto from published rates of kernels and links, not measured here:"


@dataclass(frozen=True)
class Scale:
    """``devices`` as ``parallel=auto`` uses them.

    ``seconds``: one video; ``sending``: the share of it in which ranks wait for each other;
    ``speedup``: videos per time against one device; ``peak_gb``: of each device.
    """

    devices: int
    prompts: int
    guidance: int
    sequence: int
    seconds: float
    sending: float
    speedup: float
    efficiency: float
    peak_gb: float
    fits: bool


def scaling(
    config: SamplingSettings, device: str, clip: ResolutionSettings | None = None
) -> list[Scale]:
    """A row for each number of devices; the first is what the others are compared with.

    ``clip`` as for ``make_plan``.
    """
    rows: list[Scale] = []
    heads, shard = config.backbone.dit.num_heads, config.parallel.shard
    for count in COUNTS:
        mesh = resolve(ParallelSettings("auto", shard=shard), heads, count, config.guided)
        plan = make_plan(config, device, mesh=mesh, clip=clip)
        speedup = mesh.prompts * rows[0].seconds / plan.seconds if rows else 1.0
        scale = Scale(
            devices=count,
            prompts=mesh.prompts,
            guidance=mesh.guidance,
            sequence=mesh.sequence,
            seconds=round(plan.seconds, 3),
            sending=round(sum(s.sending_seconds for s in plan.stages) / plan.seconds, 4),
            speedup=round(speedup, 3),
            efficiency=round(speedup / count * COUNTS[0], 4),
            peak_gb=max(stage.peak_gb for stage in plan.stages),
            fits=plan.refusal is None,
        )
        rows.append(scale)
    return rows


def scaling_table(rows: Sequence[Scale]) -> str:
    """The rows as text."""
    head = ("devices", "prompts x guidance x sequence", "s per video", "sending", "speed-up")
    cells = [(*head, "efficiency", "peak GB")]
    for row in rows:
        layout = f"{row.prompts} x {row.guidance} x {row.sequence}"
        figures = (f"{row.seconds:.0f}", f"{row.sending:.1%}", f"{row.speedup:.2f}")
        peak = f"{row.peak_gb:.1f}{'' if row.fits else ' DOES NOT FIT'}"
        cells.append((str(row.devices), layout, *figures, f"{row.efficiency:.0%}", peak))
    return "\n".join([NOTE, *aligned(cells, left=(1,))])
