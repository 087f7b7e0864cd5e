"""The schedules of both stages, printed as a table and drawn as a plot of every step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.targets import title
from pixelwizard.diffusion.schedules import Schedule, Step, make_schedule
from pixelwizard.io.files import atomic
from pixelwizard.io.text_table import aligned

MOST_ROWS = 16
"""Longer schedules are shown by their first and last rows; the JSON has all of them."""
COLOURS = ("#0072B2", "#D55E00")
"""Blue and vermilion of Okabe and Ito's palette, told apart by the colour-blind and in grey."""


@dataclass(frozen=True)
class StageSchedule:
    """What one stage (anchor, detail) does: its steps and the scale of its guided ones."""

    stage: str
    guidance: float
    schedule: Schedule

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "solver": to_plain(self.schedule.solver),
            "skip": to_plain(self.schedule.skip),
            "guidance": self.guidance,
            "nfe": self.schedule.nfe,
            "steps": [asdict(step) for step in self.schedule.steps],
        }


def as_taken(stage: dict[str, Any], skipped: Collection[int]) -> dict[str, Any]:
    """``StageSchedule.to_json`` of a run that left out these steps: what was computed, and NFE."""
    steps = [{**step, "computed": i not in skipped} for i, step in enumerate(stage["steps"])]
    passes = (step["evaluations"] * (1 + step["guided"]) * step["computed"] for step in steps)
    return {**stage, "nfe": sum(passes), "steps": steps}


def stage_schedules(
    anchor: SamplerSettings, detail: SamplerSettings, size: ResolutionSettings
) -> list[StageSchedule]:
    """Both stages, in the order they run. Raises ConfigError for an impossible schedule."""
    return [
        StageSchedule(
            "anchor", anchor.guidance, make_schedule(anchor, size.anchor_shift, "anchor")
        ),
        StageSchedule("detail", detail.guidance, make_schedule(detail, size.shift)),
    ]


def schedule_table(stages: Sequence[StageSchedule]) -> str:
    """A block of lines per stage: sigma, timestep, dt, guidance and NFE of every step."""
    blocks = []
    for stage in stages:
        count = len(stage.schedule.steps)
        head = f"{stage.stage}: {_in_short(stage.schedule)}"
        rows: list[tuple[str, ...]] = [("step", "sigma", "timestep", "dt", "guidance", "NFE")]
        steps = enumerate(stage.schedule.steps)
        rows += [_row(index, step, stage.guidance) for index, step in steps]
        lines = aligned(rows)
        if count > MOST_ROWS:
            half = MOST_ROWS // 2
            lines = [*lines[: half + 1], f"...  ({count - 2 * half} more)", *lines[-half:]]
        blocks.append("\n".join([head, *lines]))
    return "\n\n".join(blocks)


def draw_schedules(stages: Sequence[StageSchedule], path: Path) -> None:
    """Write a PNG: every step from its sigma to the next, against NFE, labelled with its dt.

    Steps that are skipped, or may be, are hollow.
    Raises ConfigError if the file cannot be written.
    """
    from matplotlib.figure import Figure  # half a second that a table need not pay

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for stage, colour, marker in zip(stages, COLOURS, "so", strict=True):
        sigmas, nfe = stage.schedule.sigmas, [0]
        for step in stage.schedule.steps:
            nfe.append(nfe[-1] + step.nfe)
        label = f"{stage.stage}: {_in_short(stage.schedule)}"
        axes.step(nfe, sigmas, where="post", color=colour, lw=1.2, alpha=0.6)
        axes.plot(nfe, sigmas, marker, color=colour, ms=5, label=label)
        taken = list(zip(nfe, stage.schedule.steps, strict=False))
        skipped = [(x, step.sigma) for x, step in taken if not step.computed]
        if skipped:
            axes.plot(*zip(*skipped, strict=True), marker, color=colour, mfc="white", ls="", ms=5)
        for x, step in taken:
            if step.dt is not None:
                place = {"xytext": (5, 3), "textcoords": "offset points", "fontsize": 8}
                axes.annotate(f"dt {step.dt}", (x, step.sigma), **place)  # type: ignore[arg-type]
    axes.set_xlabel("network passes (NFE)")
    axes.set_ylabel("sigma (1 = noise, 0 = data)")
    axes.set_ylim(-0.03, 1.06)
    axes.set_xscale("symlog", linthresh=8, base=2)
    axes.set_xlim(left=-0.5)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    try:
        with atomic(path) as part:
            figure.savefig(part, format="png")
    except OSError as error:
        raise ConfigError(f"plot={path} cannot be written: {error.strerror}") from None


def _in_short(schedule: Schedule) -> str:
    """Solver, rule of skipping, steps and NFE."""
    count, skipped = len(schedule.steps), sum(s.computed is False for s in schedule.steps)
    parts = [title(schedule.solver), f"{count} step{'s' * (count > 1)}"]
    if schedule.skip != "none":
        parts.append(f"skip {title(schedule.skip)}" + (f" ({skipped} skipped)" if skipped else ""))
    return ", ".join([*parts, f"{'' if schedule.is_fixed else 'at most '}{schedule.nfe} NFE"])


def _row(index: int, step: Step, guidance: float) -> tuple[str, ...]:
    return (
        str(index),
        f"{step.sigma:.4f}",
        f"{step.timestep:g}",
        "-" if step.dt is None else str(step.dt),
        f"{guidance:g}" if step.guided else "-",
        {True: str(step.nfe), False: "skipped", None: f"0 or {step.nfe}"}[step.computed],
    )
