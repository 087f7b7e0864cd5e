"""Compares few-step objectives on the detail network of ``tiny``: run by hand, for hours.

    python measure/objectives.py --out outputs/objectives --samples 800
    python measure/objectives.py --out outputs/objectives --samples 800 --report-only

Every method trains from the same weights (``experiments/compare_objectives.yaml``) under two
budgets: ``samples``, as many clips as the others, and ``work``, as many passes as ``flow`` makes
for those clips, a pass with gradient counted as three (``measure/step_time.py``: passes give the
time). The rate is constant, so ``work`` is an earlier step of the same training. A cell is a
method, a seed and a budget; cells that are done are not repeated, those broken off continue, and
all methods of a seed come before the next seed.

Given the encoded anchor of real held-out clips and the same noise, each network samples with 1 to
16 passes. ``distance`` is the mean square distance to the STARTING network's 50-step latent, in
thousandths: a network that collapsed is near its own many steps, and not near those. With
``--decoded`` passes also PSNR to the real clip, the distance of ``tiny-video`` features of all
clips (FVD; read differences only) and the share of properties that the judge sees right.
Differences from ``--against`` are paired by clip and seed, intervals are 95 %, by resampling both.
Page, figures and every clip's values are kept below ``--out``; ``--page`` is the page to write.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import FRAMES, apart, distance_of_sets, in_thousandths, interval, mean_of, sampler
from gates import Clip, Model, clips, judged, psnr
from step_time import DRAWN, WITH_GRADIENT, drawn
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.config.train import TrainConfig
from pixelwizard.evaluation.names import ASSETS, NETWORKS
from pixelwizard.evaluation.networks import VideoNetwork
from pixelwizard.models.weights import load_detail
from pixelwizard.training.train import make_module, train

PASSES = (1, 2, 4, 8, 16)
MANY = 50
JUDGED = ("colour", "background", "motion", "shape")
START, RECIPE = "start", "experiments=compare_objectives"
Row = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """How a method is trained and sampled, and the passes of its kinds of step.

    ``passes`` by kind: with gradient, without.
    """

    overrides: tuple[str, ...]
    passes: dict[str, tuple[int, int]]
    step_sizes: str = "raw"


def shortcut(*settings: str) -> Method:
    given = [f"objective.shortcut.{setting}" for setting in settings]
    return Method(("objective=shortcut", *given), {"flow": (1, 0), "consistency": (1, 2)})


def taught(kind: str, passes: dict[str, tuple[int, int]], *settings: str) -> Method:
    """A method with a teacher, unguided as the detail of ``tiny`` is."""
    given = [f"objective.{kind}.{setting}" for setting in ("guidance=1", *settings)]
    return Method((f"objective={kind}", *given), passes)


METHODS = {
    "flow": Method(
        ("objective=flow", "objective.flow.weighting=uniform"), {"flow": (1, 0)}, "none"
    ),
    "shortcut (paper)": shortcut(),
    "shortcut, original": shortcut("index_bias=0", "half_step=timestep", "span_exponent=0"),
    "shortcut, biased": shortcut("half_step=timestep", "span_exponent=0"),
    "shortcut, schedules": shortcut("sampling=schedules"),
    "flow map": Method(
        ("objective=flow_map", "objective.flow.guidance=1"), {"flow": (1, 0), "map": (1, 2)}
    ),
    "mean flow": Method(("objective=mean_flow",), {"flow": (1, 0), "interval": (1, 2)}),
    "mean flow, restricted": Method(
        ("objective=mean_flow", "objective.mean_flow.rise=1"), {"flow": (1, 0), "interval": (1, 2)}
    ),
    "consistency": replace(taught("consistency", {"consistency": (1, 2)}), step_sizes="whole"),
    "consistency, continuous": replace(
        taught("consistency", {"consistency": (1, 3)}, "kind=continuous", "warmup=20"),
        step_sizes="whole",
    ),
    "progressive": taught("progressive", {"halves": (1, 2)}),
    "dmd": replace(taught("dmd", {"distribution": (1, 3), "score": (1, 2)}), step_sizes="whole"),
    "dmd, jumps": taught("dmd", {"distribution": (3, 2), "score": (1, 3)}, "rollout=jumps"),
}


@dataclass(frozen=True)
class Cell:
    """A method's training from a seed, up to a budget; ``samples`` continues from ``work``."""

    method: str
    budget: str
    seed: int
    samples: int
    out: Path
    overrides: tuple[str, ...]

    @property
    def folder(self) -> Path:
        name = "".join(c if c.isalnum() else "_" for c in self.method)
        return self.out / f"{self.samples}" / name / f"{self.seed}" / self.budget

    @property
    def training(self) -> Path:
        return self.folder.parent / "training"

    @cached_property
    def config(self) -> TrainConfig:
        given = [RECIPE, *METHODS[self.method].overrides, *self.overrides]
        given += [f"seed={self.seed}", f"run_dir={self.training}", "tracker=none"]
        config: TrainConfig = compose("train", given)[0].config
        steps = max(1, self.samples // config.objective.batch)
        if self.budget == "work":
            steps = max(1, round(steps * WITH_GRADIENT / work(self.method, config)))
        trainer = replace(config.trainer, max_steps=steps)
        return replace(config, trainer=trainer)

    @property
    def export(self) -> Path:
        return self.folder / "export"

    @property
    def is_trained(self) -> bool:
        return self.export.is_dir()

    def train(self) -> None:
        """Train in a child process, whose memory goes with it; continues what was broken off."""
        self.folder.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if not child:
            try:
                os._exit(train(self.config))
            finally:
                os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise SystemExit(f"{self.folder}: the training failed")
        part = self.folder / "export.part"
        shutil.copytree(self.training / "export", part, dirs_exist_ok=True)
        part.rename(self.export)


def work(method: str, config: TrainConfig) -> float:
    """The passes of a mean step, one with gradient counting as three."""
    module: Any = make_module(replace(config, run_dir="unused"))
    weights = {k: WITH_GRADIENT * g + n for k, (g, n) in METHODS[method].passes.items()}
    return sum(weights[drawn(module, step)] for step in range(DRAWN)) / DRAWN


class Measured:
    """Sampling of held-out clips, the starting network's many steps kept on disk."""

    def __init__(self, out: Path) -> None:
        self.out, self.model = out, Model(compose("generate", ["tracker=none"])[0].config)

    @cached_property
    def video(self) -> VideoNetwork:
        return VideoNetwork(NETWORKS["tiny-video"], ASSETS / "video", torch.device("cpu"))

    def latent(self, clip: Clip, passes: int, step_sizes: str, solver: str = "euler") -> Tensor:
        """Sampled by the network in use from the clip's anchor and noise."""
        _, condition = self.model.condition(clip)
        noise = self.model.noise(clip, self.model.config.resolution.geometry, stream=2)
        stage = self.model.detail(sampler(solver, passes, step_sizes))
        return stage(noise, condition, *self.model.texts(clip))

    def goal(self, clip: Clip) -> Tensor:
        """The starting network's many-step latent."""
        path = self.out / "goals" / f"{clip.number:03d}.pt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            current = self.use(None)
            torch.save(self.latent(clip, MANY, "none", "unipc"), path)
            self.model.detail_network = current
        goal: Tensor = torch.load(path, weights_only=True)
        return goal

    def use(self, export: Path | None) -> Any:
        """Sample with an export's network, or the starting one; returns the one before."""
        before = self.model.__dict__.get("detail_network")
        backbone = self.model.config.backbone
        folder = backbone.folder if export is None else str(export.resolve())
        self.model.detail_network = load_detail(replace(backbone, folder=folder))
        return before

    def rows(
        self, folder: Path, export: Path | None, step_sizes: str, count: int, decoded: Sequence[int]
    ) -> list[Row]:
        """The figures of every clip, those in ``folder`` not again."""
        found, used = [], False
        for clip in clips(count):
            path = folder / "clips" / f"{clip.number:03d}.json"
            row: Row = json.loads(path.read_text()) if path.exists() else {}
            missing = [
                n
                for n in PASSES
                if f"{n}" not in row or (n in decoded and "psnr" not in row[f"{n}"])
            ]
            if missing:
                goal = self.goal(clip)
                if not used:
                    used = bool(self.use(export)) or True
                row |= {f"{n}": self.seen(clip, n, step_sizes, goal, n in decoded) for n in missing}
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(row))
            found.append(row)
        return found

    def seen(self, clip: Clip, passes: int, step_sizes: str, goal: Tensor, decode: bool) -> Row:
        """Distance, and of the decoded clip PSNR, features and what the judge says."""
        latent = self.latent(clip, passes, step_sizes)
        row: Row = {"distance": apart(latent, goal)}
        if decode:
            video = self.model.decoded(latent)
            real = clip.render(self.model.config.resolution.geometry)
            verdict = judged(video, clip.text, "")
            right = [verdict[f" {name}"] for name in JUDGED]
            row |= {
                "psnr": psnr(video, real),
                "judge": float(np.mean(right)),
            }
            row |= {"features": self.features(video), "real": self.features(real)}
        return row

    def features(self, frames: np.ndarray) -> list[float]:
        """What tiny-video sees in the first frames of a clip."""
        fitted = [self.video.fit(torch.from_numpy(frame.copy())) for frame in frames[:FRAMES]]
        return self.video.features(torch.stack(fitted, dim=1)[None])[0].tolist()


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    """All methods of a seed, then the next seed."""
    for seed in given.seeds:
        for method in given.methods:
            for budget in ("work", "samples"):
                if method == "flow" and budget == "work":
                    continue  # it is its own measure
                yield Cell(method, budget, seed, given.samples, given.out, tuple(given.overrides))


def columns(rows: Sequence[Sequence[Row]], passes: int, figure: str) -> np.ndarray:
    """A figure of all seeds and clips, [S, C]."""
    return np.array([[row[f"{passes}"][figure] for row in clip_rows] for clip_rows in rows])


def table(found: dict[str, list[list[Row]]], against: str) -> list[str]:
    """Distances by method and passes in thousandths, and where the paired difference is clear."""
    lines = ["| method | seeds | " + " | ".join(f"{n} passes" for n in PASSES) + " |"]
    lines.append("|---|---:|" + "---|" * len(PASSES))
    base = found.get(against)
    for method, rows in found.items():
        cells = []
        for n in PASSES:
            own = columns(rows, n, "distance")
            cell = in_thousandths(interval(own, mean_of))
            if base is not None and method not in (against, START):
                shared = min(len(base), len(own))
                apart_ = own[:shared] - columns(base[:shared], n, "distance")
                change = interval(apart_, mean_of)
                clear = change["low"] > 0 or change["high"] < 0
                cell += (" better" if change["high"] < 0 else " worse") if clear else " unclear"
            cells.append(cell)
        lines.append(f"| {method} | {len(rows)} | " + " | ".join(cells) + " |")
    return lines


def quality(found: dict[str, list[list[Row]]], decoded: Sequence[int]) -> list[str]:
    """PSNR, FVD and the judge at the passes that were decoded."""
    lines = ["| method | passes | PSNR, dB | FVD | judge |", "|---|---:|---|---:|---:|"]
    for method, rows in found.items():
        for n in decoded:
            if any("psnr" not in row[f"{n}"] for one in rows for row in one):
                continue
            quality = interval(columns(rows, n, "psnr"), mean_of)
            both = np.array(
                [[[r[f"{n}"]["features"], r[f"{n}"]["real"]] for r in one] for one in rows]
            )
            fvd = distance_of_sets(both, np.arange(both.shape[1]))
            right = np.mean(columns(rows, n, "judge"))
            value, low, high = (quality[key] for key in ("value", "low", "high"))
            sharp = f"{value:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"| {method} | {n} | {sharp} | {fvd:.2f} | {right:.2f} |")
    return lines


def drawn_figure(found: dict[str, list[list[Row]]], path: Path) -> None:
    """Distance over passes, a line per method."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for method, rows in found.items():
        values = [1000 * columns(rows, n, "distance").mean() for n in PASSES]
        axis.plot(
            PASSES, values, marker="o", label=method, color="black" if method == START else None
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("passes")
    axis.set_ylabel(f"distance to the starting network's {MANY} steps, thousandths")
    axis.legend(fontsize=7)
    axis.grid(alpha=0.3)
    figure.savefig(path)


def report(given: argparse.Namespace, measured: Measured) -> None:
    """The page of what is there so far."""
    lines = [
        f"{given.samples} clips a training, {given.clips} held-out clips; distances in thousandths,"
        f" better, worse or unclear against {given.against}."
    ]
    start = measured.rows(given.out / START, None, "raw", given.clips, given.decoded)
    for budget in ("samples", "work"):
        found: dict[str, list[list[Row]]] = {START: [start]}
        for cell in cells(given):
            shared = cell.budget == budget or cell.method == "flow"
            if shared and cell.is_trained:
                sizes = METHODS[cell.method].step_sizes
                rows = measured.rows(cell.folder, cell.export, sizes, given.clips, given.decoded)
                found.setdefault(cell.method, []).append(rows)
        if len(found) > 1:
            lines += [
                "",
                f"### Equal {budget}",
                "",
                *table(found, given.against),
                "",
                *quality(found, given.decoded),
            ]
            drawn_figure(found, given.out / f"objectives_{given.samples}_{budget}.svg")
    text = "\n".join(lines) + "\n"
    (given.page or given.out / f"objectives_{given.samples}.md").write_text(text)
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and measure what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=800, help="clips that a training sees")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--decoded", type=int, nargs="*", default=[4])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--against", default="shortcut (paper)", choices=METHODS)
    parser.add_argument("--page", type=Path, help="where the tables go")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument(
        "--cells", type=int, default=10**6, help="train at most so many, then report"
    )
    parser.add_argument("overrides", nargs="*", help="settings of train, as key=value")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measured = Measured(given.out)
    missing = [cell for cell in cells(given) if not cell.is_trained]
    for cell in [] if given.report_only else missing[: given.cells]:
        print(f"{cell.folder}: {cell.config.trainer.max_steps} steps", flush=True)
        cell.train()
        sizes = METHODS[cell.method].step_sizes
        measured.rows(cell.folder, cell.export, sizes, given.clips, given.decoded)
    report(given, measured)


if __name__ == "__main__":
    main()
