"""Compares trainings of the detail network, the ablations in miniature: run by hand.

    python measure/ablation.py --runs outputs/ablation --out outputs/ablation --clips 24
    python measure/ablation.py --cross EXPORT --out outputs/ablation --clips 24

``--runs`` holds a folder per training, and in it one per seed, with exports. Given the encoded
anchor of real held-out clips and the same noise, each network's few-step latents are compared with
its own 50-step latent (mean square distance), and decoded: energy at the finest scales relative to
the autoencoder's reconstruction, and the distance of the features of ``tiny-video`` to those of the
real clips (FVD, biased for this few clips: read differences only). ``--cross`` crosses solvers,
step sizes and numbers of evaluations on one network, distances alone. Intervals are 95 %, by
resampling seeds and clips; those of FVD are the range of the seeds. Every clip's figures are kept
below ``--out``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gates import laplacian, recipe_of
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.comparison.few_step.measuring import Features, mse
from pixelwizard.comparison.few_step.networks import Clip, Networks, clips
from pixelwizard.comparison.few_step.page import (
    fvd_over_seeds,
    in_thousandths,
    interval,
)
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.data.examples import to_video

STEPS = (2, 3, 4, 5, 8)
SOLVERS, SIZES, EVALUATIONS = ("euler", "unipc", "dpmpp"), ("none", "raw", "snapped"), (1, 2, 4, 8)
MANY = 50
FIGURES = ("distance", "energy", "fvd")
NEEDED = ("text_encoder", "detail", "vae")
WITHOUT_STEP_SIZES = "flow"
"""The training that is sampled without step sizes."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training: what was trained, from which seed, and its export."""

    variant: str
    seed: str
    export: Path


def runs_below(folder: Path) -> list[Run]:
    """All exports of detail networks below VARIANT/SEED/."""
    exports = sorted(path.parents[1] for path in folder.glob("*/*/export/detail/model.safetensors"))
    return [Run(path.parts[-3], path.parts[-2], path) for path in exports]


def sampler(solver: str, steps: int, step_sizes: str) -> SamplerSettings:
    return SamplerSettings(solver=solver, steps=steps, step_sizes=step_sizes, guidance=1.0)


class Measured:
    """A network's figures of every clip, those kept in a folder not again."""

    def __init__(self, export: Path, overrides: Sequence[str], out: Path) -> None:
        config = compose("generate", overrides)[0].config
        backbone = replace(config.backbone, folder=str(export.resolve()))
        self.model = Networks(replace(config, backbone=backbone))
        self.out = out / "clips"
        self.features = Features()

    def rows(self, name: str, count: int, measure: Callable[[Clip], Row]) -> list[Row]:
        """The figures of ``count`` clips."""
        found = []
        for clip in clips(count):
            found.append(self.kept(name, clip, measure, NEEDED))
            if sys.stderr.isatty():
                print(f"\r{name} {len(found)}/{count} ", end="", file=sys.stderr, flush=True)
        return found

    def kept(
        self, name: str, clip: Clip, measure: Callable[[Clip], Row], networks: Sequence[str]
    ) -> Row:
        """A clip's figures, which depend on these networks; measured once."""
        folder = self.out / recipe_of(self.model.config, networks)
        path = folder / f"{name}-{clip.number:03d}.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(measure(clip)))
        row: Row = json.loads(path.read_text())
        return row

    def latents(self, clip: Clip) -> Callable[[str, int, str], Tensor]:
        """How to sample from the clip's noise and anchor."""
        _, condition = self.model.condition(clip)
        noise = self.model.noise(clip, self.model.config.resolution.geometry, stream=2)
        texts = self.model.texts(clip)
        return lambda *how: self.model.detail(sampler(*how))(noise, condition, *texts)

    def real(self, clip: Clip) -> Row:
        """Features of the real clip, energy of the autoencoder's reconstruction."""
        real = clip.render(self.model.config.resolution.geometry)
        with torch.no_grad():
            again = self.model.decoded(self.model.vae.encode(to_video(real))[0])
        return {"features": self.features.of_video(real), "energy": laplacian(again)}

    def steps(self, clip: Clip, step_sizes: str) -> Row:
        """Every number of steps: distance, energy and features with UniPC, Euler's distance."""
        real, sample = self.kept("real", clip, self.real, ["vae"]), self.latents(clip)
        goal, ceiling = sample("unipc", MANY, "none"), real["energy"]
        row: Row = {"real": real["features"], "many": self.seen(goal, goal, ceiling)}
        for steps in STEPS:
            row[f"unipc {steps}"] = self.seen(sample("unipc", steps, step_sizes), goal, ceiling)
        for steps in STEPS:
            row[f"euler {steps}"] = {"distance": mse(sample("euler", steps, step_sizes), goal)}
        return row

    def seen(self, latent: Tensor, goal: Tensor, ceiling: float) -> Row:
        frames = self.model.decoded(latent)
        return {
            "distance": mse(latent, goal),
            "energy": laplacian(frames) / ceiling,
            "features": self.features.of_video(frames),
        }

    def cross(self, clip: Clip) -> Row:
        """Every solver with every kind of step size and number of evaluations: the distance."""
        sample = self.latents(clip)
        goal = sample("unipc", MANY, "none")
        return {
            f"{solver} {sizes} {count}": mse(sample(solver, count, sizes), goal)
            for solver in SOLVERS
            for sizes in SIZES
            for count in EVALUATIONS
        }


def compared(found: dict[str, list[list[Row]]], against: str) -> list[Row]:
    """Every figure of every training and sampler; distances also less those of ``against``."""
    table = []
    for variant, seeds in found.items():
        for name in (key for key in seeds[0][0] if key != "real"):
            figures: dict[str, Row] = {}
            for figure in ("distance", "energy"):
                if figure in seeds[0][0][name]:
                    figures[figure] = interval(column(seeds, name, figure))
            if "features" in seeds[0][0][name]:
                real = np.array([[row["real"] for row in rows] for rows in seeds])
                figures["fvd"] = fvd_over_seeds(column(seeds, name, "features"), real)
            others = found.get(against, [])
            if len(others) == len(seeds) and len(others[0]) == len(seeds[0]):
                apart = column(seeds, name, "distance") - column(others, name, "distance")
                figures["distance above"] = interval(apart)
            table.append({"variant": variant, "sampler": name, "seeds": len(seeds), **figures})
    return table


def column(seeds: list[list[Row]], name: str, figure: str) -> np.ndarray:
    return np.array([[row[name][figure] for row in rows] for rows in seeds])


def written(rows: Iterable[Row], figures: Sequence[str]) -> str:
    """A markdown table: value and interval."""
    lines = [f"| training | sampler | seeds | {' | '.join(figures)} |"]
    lines.append("|---" * (3 + len(figures)) + "|")
    for row in rows:
        cells = [
            f"{row[f]['value']:.4g} ({row[f]['low']:.4g} to {row[f]['high']:.4g})"
            if f in row
            else ""
            for f in figures
        ]
        lines.append(
            f"| {row['variant']} | {row['sampler']} | {row['seeds']} | " + " | ".join(cells)
        )
    return "\n".join(f"{line} |" if not line.endswith("|") else line for line in lines)


def drawn(table: list[Row], path: Path) -> None:
    """Distance, energy and FVD over the number of UniPC steps, a line per training."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(FIGURES), figsize=(13, 4), layout="constrained")
    for axis, name in zip(axes, FIGURES, strict=True):
        for variant in dict.fromkeys(row["variant"] for row in table):
            own = [row for row in table if row["variant"] == variant and name in row]
            rows = {row["sampler"]: row[name] for row in own}
            points = [rows[f"unipc {steps}"] for steps in STEPS]
            values = [point["value"] for point in points]
            below = [max(0.0, p["value"] - p["low"]) for p in points]
            above = [max(0.0, p["high"] - p["value"]) for p in points]
            axis.errorbar(STEPS, values, [below, above], label=variant, marker="o", capsize=3)
        axis.set_xlabel("UniPC steps")
        axis.set_ylabel({"distance": f"distance to the own {MANY} steps"}.get(name, name))
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].axhline(1.0, color="black", linewidth=0.8)
    axes[0].legend()
    figure.savefig(path)


def compare_runs(given: argparse.Namespace) -> None:
    """Measure, write and draw all trainings."""
    found: dict[str, list[list[Row]]] = {}
    for run in runs_below(given.runs):
        sizes = "none" if run.variant == WITHOUT_STEP_SIZES else "raw"
        measured = Measured(run.export, given.overrides, given.out)
        rows = measured.rows(sizes, given.clips, lambda clip, m=measured, s=sizes: m.steps(clip, s))
        found.setdefault(run.variant, []).append(rows)
    if not found:
        raise SystemExit(f"--runs {given.runs} holds no VARIANT/SEED/export/detail")
    table = compared(found, given.against)
    (given.out / "ablation.json").write_text(json.dumps(table, indent=1))
    text = written(table, [*FIGURES, "distance above"])
    (given.out / "ablation.md").write_text(text + "\n")
    drawn(table, given.out / "ablation.svg")
    print(text)


def cross(given: argparse.Namespace) -> None:
    """Measure and write the crossing on one network: a row per solver and kind of step size."""
    measured = Measured(given.cross, given.overrides, given.out)
    rows = measured.rows("cross", given.clips, measured.cross)
    head = [f"{count} NFE" for count in EVALUATIONS]
    lines = [f"| solver | step sizes | {' | '.join(head)} |", "|---" * (2 + len(head)) + "|"]
    for solver in SOLVERS:
        for sizes in SIZES:
            values = [np.array([row[f"{solver} {sizes} {n}"] for row in rows]) for n in EVALUATIONS]
            cells = [in_thousandths(interval(value[None])) for value in values]
            lines.append(f"| {solver} | {sizes} | {' | '.join(cells)} |")
    for solver in SOLVERS:
        ahead = {
            n: sum(row[f"{solver} raw {n}"] < row[f"{solver} none {n}"] for row in rows)
            for n in EVALUATIONS
        }
        lines.append(f"{solver}: clips closer with step sizes, of {len(rows)}, by NFE: {ahead}")
    (given.out / "cross.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the trainings, or cross the samplers, as asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, help="holds VARIANT/SEED/export")
    parser.add_argument("--cross", type=Path, help="an export to cross solvers and step sizes on")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--against", default="aligned", help="the training to be compared with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", help="settings of generate, as key=value")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.runs:
        compare_runs(given)
    if given.cross:
        cross(given)
    if not given.runs and not given.cross:
        parser.error("give --runs or --cross")


if __name__ == "__main__":
    main()
