"""Compares few-step objectives on the detail network of ``tiny``: run by hand, for hours.

    python measure/objectives.py --out outputs/objectives --samples 800
    python measure/objectives.py --out outputs/objectives --samples 800 --report-only

Every method trains from the same weights, the starting network: the shipped detail network after
some flow matching at the recipe's size, with both projections of the step size held at what they
are for 0, so that it is a flow and knows nothing of step sizes. ``shipped`` is the shipped network.
Two budgets: ``samples``, as many clips as the others, and ``work``, as many passes as ``flow``
makes for those clips, a pass with gradient counted as three (``measure/step_time.py``: passes give
the time). The rate is constant (``experiments/compare_objectives.yaml``), so ``work`` is an earlier
step of the same training, but for methods whose stages follow its length. A cell is a method, a
seed and a budget; cells that are done are not repeated, those broken off continue, and all methods
of a seed come before the next seed.

Given the encoded anchor of real held-out clips and the same noise, each network samples with 1 to
16 passes. ``distance`` is the mean square distance to the STARTING network's 50-step latent, in
thousandths: a network that collapsed is near its own many steps, and not near those. With
``--decoded`` passes also PSNR to the real clip, the set distances frame-MMD (of EfficientNet's
features to other real clips) and FVD (of ``tiny-video``'s; read differences only), and the share of
properties that the judge sees right. Differences from ``--against`` are paired by clip and seed,
intervals are 95 %, by resampling both. Tables (``objectives.md``), figures and every clip's values
are kept below ``--out``.
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
from ablation import FRAMES, apart, sampler
from gates import Clip, Model, clips, enlarge, judged, psnr
from objectives_page import Row, differences, distances, draw, quality
from step_time import DRAWN, WITH_GRADIENT, drawn
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.output import MetricsSettings
from pixelwizard.config.train import TrainConfig
from pixelwizard.evaluation.metrics.frame_mmd import FrameKernelDistance
from pixelwizard.evaluation.names import ASSETS, IMAGE, NETWORKS, network_folder
from pixelwizard.evaluation.networks import ImageNetwork, VideoNetwork
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.wan.dit import sinusoid
from pixelwizard.models.weights import load_detail, save_network
from pixelwizard.training.exports import complete_backbone
from pixelwizard.training.train import make_module, train

FIRST_STEPS = 300
"""Of flow matching that make the shipped network at home in the recipe's size."""
PASSES = (1, 2, 4, 8, 16)
MANY = 50
EVERY, SEEN = 4, Geometry(224, 224, 1)
"""The frames that the image network sees, and their size there."""
LAST, REAL = 100, 24
"""The real clips for the set distance come after so many that may be sampled."""
JUDGED = ("colour", "background", "motion", "shape")
START, SHIPPED, RECIPE = "start", "shipped", "experiments=compare_objectives"


@dataclass(frozen=True)
class Method:
    """How a method is trained and sampled, and the passes of its kinds of step.

    ``passes`` by kind: with gradient, without. ``staged``: what it learns depends on how much of
    the training is done, so no budget is an earlier step of another.
    """

    overrides: tuple[str, ...]
    passes: dict[str, tuple[int, int]]
    step_sizes: str = "raw"
    staged: bool = False


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
        ("objective=mean_flow", "objective.mean_flow.rise=1"),
        {"flow": (1, 0), "interval": (1, 2)},
        staged=True,
    ),
    "consistency": replace(taught("consistency", {"consistency": (1, 2)}), step_sizes="whole"),
    "consistency, continuous": replace(
        taught("consistency", {"consistency": (1, 3)}, "kind=continuous", "warmup=20"),
        step_sizes="whole",
    ),
    "progressive": replace(taught("progressive", {"halves": (1, 2)}), staged=True),
    "dmd": replace(taught("dmd", {"distribution": (1, 3), "score": (1, 2)}), step_sizes="whole"),
    "dmd, jumps": taught("dmd", {"distribution": (3, 2), "score": (1, 3)}, "rollout=jumps"),
}


@dataclass(frozen=True)
class Cell:
    """A method's training from a seed, up to a budget; ``samples`` continues from ``work``, but
    for a staged method.
    """

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
        return (self.folder if METHODS[self.method].staged else self.folder.parent) / "training"

    @cached_property
    def config(self) -> TrainConfig:
        start = f"objective.init_from={start_folder(self.out, self.overrides) / NAMES['detail'][0]}"
        given = [RECIPE, *METHODS[self.method].overrides, start, *self.overrides]
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
        """Train up to the budget and keep the export."""
        self.folder.mkdir(parents=True, exist_ok=True)
        in_child(self.config)
        part = self.folder / "export.part"
        shutil.copytree(self.training / "export", part, dirs_exist_ok=True)
        part.rename(self.export)


def rows_of(cell: Cell, measured: Measured, given: argparse.Namespace) -> list[Row]:
    """A trained cell's figures of every clip."""
    sizes = METHODS[cell.method].step_sizes
    return measured.rows(cell.folder, cell.export, sizes, given.clips, given.decoded)


def start_folder(out: Path, overrides: Sequence[str]) -> Path:
    """The backbone of all trainings, made once: at home in their size, blind to step sizes."""
    folder = (out / START / "export").resolve()
    if not folder.exists():
        run = out / START / "training"
        given = [*METHODS["flow"].overrides, f"trainer.max_steps={FIRST_STEPS}"]
        given += ["optimizer.decay=0.5", f"run_dir={run}", "tracker=none"]
        config: TrainConfig = compose("train", [RECIPE, *overrides, *given])[0].config
        in_child(config)
        network = load_detail(replace(config.backbone, folder=str(run / "export")))
        for projection in (network.dt_embedding, network.spatial_adapter.adapter_dt_proj):
            hold(projection)
        part = folder.with_suffix(".part")
        save_network(network, "detail", part, torch.float32)
        complete_backbone(config, part, network, network)
        part.rename(folder)
    return folder


def in_child(config: TrainConfig) -> None:
    """Train in a child process, whose memory goes with it; continues what was broken off."""
    child = os.fork()
    if not child:
        try:
            os._exit(train(config))
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(f"{config.run_dir}: the training failed")


@torch.no_grad()
def hold(projection: Any) -> None:
    """Let a projection of step sizes answer all of them as it does 0."""
    first, middle, last = projection
    last.bias.copy_(last(middle(first(sinusoid(torch.zeros(1), first.in_features))))[0])
    last.weight.zero_()


def work(method: str, config: TrainConfig) -> float:
    """The passes of a mean step, one with gradient counting as three."""
    module: Any = make_module(replace(config, run_dir="unused"))
    weights = {k: WITH_GRADIENT * g + n for k, (g, n) in METHODS[method].passes.items()}
    return sum(weights[drawn(module, step)] for step in range(DRAWN)) / DRAWN


class Measured:
    """Sampling of held-out clips, the starting network's many steps kept on disk."""

    def __init__(self, out: Path, overrides: Sequence[str]) -> None:
        size = compose("train", [RECIPE, *overrides, "run_dir=unused"])[0].config.resolution
        config = compose("generate", ["tracker=none"])[0].config
        self.out, self.overrides = out, overrides
        self.model = Model(replace(config, resolution=size))

    @cached_property
    def video(self) -> VideoNetwork:
        return VideoNetwork(NETWORKS["tiny-video"], ASSETS / "video", torch.device("cpu"))

    @cached_property
    def image(self) -> ImageNetwork:
        facts = NETWORKS[IMAGE]
        return ImageNetwork(facts, network_folder(facts, MetricsSettings()), torch.device("cpu"))

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
            current = self.use(start_folder(self.out, self.overrides))
            part = path.with_suffix(f".{os.getpid()}")
            torch.save(self.latent(clip, MANY, "none", "unipc"), part)
            part.rename(path)
            self.model.detail_network = current
        goal: Tensor = torch.load(path, weights_only=True)
        return goal

    def use(self, export: Path | None) -> Any:
        """Sample with an export's network, or the shipped one; returns the one before."""
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
                "features": self.features(video),
                "real": self.features(real),
                "images": self.images(video).tolist(),
            }
        return row

    def images(self, frames: np.ndarray) -> Tensor:
        """What the image network sees in some frames, stretched: their mean, their change."""
        seen = self.image.embed(torch.from_numpy(enlarge(frames[::EVERY], SEEN)))
        return FrameKernelDistance().features(seen[:, None])[0]

    @cached_property
    def real_images(self) -> Tensor:
        """The same of real held-out clips that nothing else uses, [REAL, D]."""
        path = self.out / "real_images.pt"
        if not path.exists():
            size = self.model.config.resolution.geometry
            others = clips(LAST + REAL)[-REAL:]
            seen = torch.stack([self.images(clip.render(size)) for clip in others])
            part = path.with_suffix(f".{os.getpid()}")
            torch.save(seen, part)
            part.rename(path)
        found: Tensor = torch.load(path, weights_only=True)
        return found

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


def report(given: argparse.Namespace, measured: Measured) -> None:
    """The page of what is there so far."""
    own = {START: start_folder(given.out, given.overrides), SHIPPED: None}
    known = {
        name: [measured.rows(given.out / name, folder, "raw", given.clips, given.decoded)]
        for name, folder in own.items()
    }
    lines = costs(given)
    for budget in ("samples", "work"):
        found = {**known, **trained(given, measured, budget)}
        if given.against in found:
            against = f"Above {given.against}:"
            lines += ["", f"### Equal {budget}", "", *distances(found, PASSES), "", against, ""]
            lines += differences(found, PASSES, given.against)
            for passes in given.decoded:
                lines += ["", f"Decoded, {passes} passes:", ""]
                lines += quality(found, passes, measured.real_images)
            draw(found, list(known), PASSES, given.out / f"objectives_{budget}.svg")
    text = "\n".join(lines) + "\n"
    (given.out / "objectives.md").write_text(text)
    print(text, flush=True)


def trained(given: argparse.Namespace, measured: Measured, budget: str) -> dict[str, list[Any]]:
    """The rows of all cells of a budget that are done, by method and seed."""
    found: dict[str, list[Any]] = {}
    for cell in cells(given):
        if cell.is_trained and (cell.budget == budget or cell.method == "flow"):
            found.setdefault(cell.method, []).append(rows_of(cell, measured, given))
    return found


def costs(given: argparse.Namespace) -> list[str]:
    """What a step of each method costs, and how many steps make equal work."""
    lines = [
        "| method | passes of a step beside `flow`'s | steps for equal work |",
        "|---|---:|---:|",
    ]
    for method in given.methods:
        cell = Cell(method, "work", 0, given.samples, given.out, tuple(given.overrides))
        ratio = work(method, cell.config) / WITH_GRADIENT
        lines.append(f"| {method} | {ratio:.2f} | {cell.config.trainer.max_steps} |")
    return lines


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
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument(
        "--cells", type=int, default=10**6, help="train at most so many, then report"
    )
    parser.add_argument("overrides", nargs="*", help="settings of train, as key=value")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measured = Measured(given.out, given.overrides)
    missing = [cell for cell in cells(given) if not cell.is_trained]
    for cell in [] if given.report_only else missing[: given.cells]:
        print(f"{cell.folder}: {cell.config.trainer.max_steps} steps", flush=True)
        cell.train()
        rows_of(cell, measured, given)
    report(given, measured)


if __name__ == "__main__":
    main()
