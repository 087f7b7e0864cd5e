"""Measures a backbone against what it should reach: run by hand, or imported.

    python measure/gates.py --prompts 64 --out outputs/gates
    python measure/gates.py --folder EXPORT --part pipeline --anchors-only anchor.guidance=3

Everything runs through the package's own loaders and stages on captions that no training sees, one
clip at a time. Each clip's figures are kept under ``--out``, so that a repeated or interrupted
command measures only what is missing; other weights or settings are measured anew.

vae        PSNR of real clips at both sizes, and what the judge says of their reconstructions
pipeline   what the judge says of the anchors and of the finished videos
image      the same begun with a held-out clip's first frame: its PSNR, and whether the motion is
           that of the text, of the clip's own and of one that asks for another
detail     given the encoded anchor of a real clip, once averaged down and once degraded as in the
           reference's training: PSNR to that clip and Laplacian energy relative to the
           autoencoder's reconstruction of it, of the decoded detail and of the decoded anchor
           enlarged bicubically
shortcut   mean square distance of few-step latents from the 50-step latent of the same noise
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.comparison.few_step.measuring import enlarge, psnr
from pixelwizard.comparison.few_step.networks import Clip, Networks, clips
from pixelwizard.config.generate import GenerateConfig, SamplerSettings
from pixelwizard.config.train import DegradationSettings
from pixelwizard.data import shapes
from pixelwizard.data.examples import to_video
from pixelwizard.evaluation.judge import judge
from pixelwizard.io.image import cover
from pixelwizard.models.checkpoints import require_weights, weights_digest

JUDGED = ("colour", "background", "motion", "shape")
REFERENCE = DegradationSettings(shrink=[2.8, 5.6], blurred=1.0, kernels=[5], deviation=[1.9, 2.7])
"""The reference's degradation in parts of a picture, at anchors of 160 lines (conf/data/shapes)."""
SHEET_ROWS, SHEET_FRAMES, FRAME_WIDTH = 16, 5, 256
FEW_STEPS = {
    "shortcut4": ("unipc", "raw"),
    "euler4, step sizes": ("euler", "raw"),
    "euler4": ("euler", "none"),
    "unipc4": ("unipc", "none"),
}

Row = dict[str, float]
Pictures = list[np.ndarray]


def measure_vae(model: Networks, clip: Clip) -> tuple[Row, Pictures]:
    """Reconstructions at both sizes."""
    row, pictures = {}, []
    size = model.config.resolution
    for name, geometry in (("anchor", size.anchor_geometry), ("video", size.geometry)):
        real = clip.render(geometry)
        with torch.no_grad():
            again = model.decoded(model.vae.encode(to_video(real))[0])
        row |= {f"{name} PSNR dB": psnr(again, real), **judged(again, clip.text, name)}
        pictures += [real, again]
    return row, pictures


def measure_anchor(model: Networks, clip: Clip) -> tuple[Row, Pictures]:
    """The first stage alone."""
    noise = model.noise(clip, model.config.resolution.anchor_geometry, stream=1)
    frames = model.decoded(model.anchor(noise, *model.texts(clip)))
    return judged(frames, clip.text, "anchor"), [frames]


def measure_pipeline(model: Networks, clip: Clip) -> tuple[Row, Pictures]:
    """Both stages."""
    size, texts = model.config.resolution, model.texts(clip)
    anchor = model.anchor(model.noise(clip, size.anchor_geometry, stream=1), *texts)
    detail = model.detail(model.config.schedule)
    latent = detail(model.noise(clip, size.geometry, stream=2), anchor, *texts)
    small, frames = model.decoded(anchor), model.decoded(latent)
    row = {**judged(small, clip.text, "anchor"), **judged(frames, clip.text, "video")}
    return row, [small, frames]


def measure_image(model: Networks, clip: Clip) -> tuple[Row, Pictures]:
    """Both stages, given the first frame of the real clip; and the anchor told another motion."""
    size, texts = model.config.resolution, model.texts(clip)
    shape, small = ((g.width, g.height) for g in (size.geometry, size.anchor_geometry))
    given = clip.render(size.geometry)[0]
    with torch.no_grad():
        first = model.vae.encode(to_video(cover(given, small, shape)[None]))[0]
    noise = model.noise(clip, size.anchor_geometry, stream=1)
    anchor = model.anchor(noise, *texts, first_frame=first)
    detail = model.detail(model.config.schedule)
    frames = model.decoded(detail(model.noise(clip, size.geometry, stream=2), anchor, *texts))
    low, target = model.decoded(anchor), cover(given, small, shape)[None]
    row = {**judged(low, clip.text, "anchor"), **judged(frames, clip.text, "video")}
    row["anchor first frame PSNR dB"] = psnr(low[:1], target)
    row["reconstructed first frame PSNR dB"] = psnr(model.decoded(first), target)
    row["video first frame PSNR dB"] = psnr(frames[:1], given[None])
    other = replace(clip, text=clip.text.replace(clip.scene.motion, other_motion(clip.scene)))
    again = model.decoded(model.anchor(noise, *model.texts(other), first_frame=first))
    row["other motion"] = judged(again, other.text, "other")["other motion"]
    return row, [given[None], low, frames, again]


def other_motion(scene: shapes.Scene) -> str:
    """A motion that a text can ask of the first frame of a scene that moves otherwise."""
    if scene.motion not in ("grows", "shrinks"):
        return "shrinks"
    return "moves right" if scene.x[0] < 0.5 else "moves left"


def measure_detail(model: Networks, clip: Clip) -> tuple[Row, Pictures]:
    """The second stage given a real anchor, and given a degraded one."""
    real = clip.render(model.config.resolution.geometry)
    with torch.no_grad():
        ceiling = model.decoded(model.vae.encode(to_video(real))[0])
    row, pictures = {"reconstruction PSNR dB": psnr(ceiling, real)}, [real, ceiling]
    for kind, rule in (("", None), ("degraded: ", REFERENCE)):
        shown = dict(zip(("bicubic", "detail"), from_anchor(model, clip, rule), strict=True))
        for name, video in shown.items():
            row[f"{kind}{name} PSNR dB"] = psnr(video, real)
            row[f"{kind}{name} sharpness"] = laplacian(video) / laplacian(ceiling)
        above = row[f"{kind}detail PSNR dB"] - row[f"{kind}bicubic PSNR dB"]
        row[f"{kind}detail above bicubic dB"] = above
        pictures += shown.values()
    return row, pictures


def from_anchor(
    model: Networks, clip: Clip, rule: DegradationSettings | None
) -> tuple[np.ndarray, np.ndarray]:
    """The decoded anchor of a real clip enlarged, and what the detail stage makes of the anchor."""
    size = model.config.resolution.geometry
    _, condition = model.condition(clip, rule)
    noise = model.noise(clip, size, stream=2)
    latent = model.detail(model.config.schedule)(noise, condition, *model.texts(clip))
    return enlarge(model.decoded(condition), size), model.decoded(latent)


def measure_shortcut(model: Networks, clip: Clip) -> tuple[Row, Pictures]:
    """Four steps against fifty."""
    settings = model.config.schedule
    real, condition = model.condition(clip)
    noise = model.noise(clip, model.config.resolution.geometry, stream=2)
    texts = model.texts(clip)

    def latent(solver: str, steps: int, step_sizes: str) -> Tensor:
        sampler = SamplerSettings(
            solver=solver, steps=steps, step_sizes=step_sizes, guidance=settings.guidance
        )
        return model.detail(sampler)(noise, condition, *texts)

    goal = latent("unipc", 50, "none")
    row = {
        f"{name} MSE": float((latent(solver, 4, sizes) - goal).square().mean())
        for name, (solver, sizes) in FEW_STEPS.items()
    }
    row["shortcut4 closer than euler4"] = float(row["shortcut4 MSE"] < row["euler4 MSE"])
    row["shortcut4 closer than unipc4"] = float(row["shortcut4 MSE"] < row["unipc4 MSE"])
    return row, []


PARTS: dict[str, tuple[Callable[[Networks, Clip], tuple[Row, Pictures]], tuple[str, ...]]] = {
    "vae": (measure_vae, ("vae",)),
    "anchor": (measure_anchor, ("text_encoder", "anchor", "vae")),
    "pipeline": (measure_pipeline, ("text_encoder", "anchor", "detail", "vae")),
    "image": (measure_image, ("text_encoder", "anchor", "detail", "vae")),
    "detail": (measure_detail, ("text_encoder", "detail", "vae")),
    "shortcut": (measure_shortcut, ("text_encoder", "detail", "vae")),
}
"""What measures a part, and the weights that it needs."""


def laplacian(video: np.ndarray) -> float:
    """Mean square of the five-point Laplacian of uint8 frames: energy at the finest scales."""
    x = video.astype(np.float32)
    middle = 4 * x[:, 1:-1, 1:-1]
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return float(np.mean((middle - around) ** 2))


def judged(video: np.ndarray, text: str, name: str) -> Row:
    """1.0 or 0.0 for each thing that the judge finds as the caption says, and for all of them."""
    verdict, wanted = judge(video), shapes.scene_for(text, seed=0)
    right = {key: float(getattr(verdict, key) == getattr(wanted, key)) for key in JUDGED}
    return {f"{name} {key}": value for key, value in {**right, "all": min(right.values())}.items()}


def measure(part: str, model: Networks, count: int, out: Path | None) -> list[Row]:
    """The figures of ``count`` clips, those kept below ``out`` not again."""
    function, needed = PARTS[part]
    require_weights(model.config.backbone, needed)
    recipe = recipe_of(model.config, needed)
    folder = None if out is None else out / part / recipe
    rows = []
    for clip in clips(count):
        kept = None if folder is None else folder / f"{clip.number:03d}.json"
        if kept is None or not kept.exists():
            started = time.monotonic()
            row, pictures = function(model, clip)
            row["seconds"] = time.monotonic() - started
            if folder is not None and kept is not None:
                folder.mkdir(parents=True, exist_ok=True)
                if pictures:
                    strip(clip.text, pictures).save(kept.with_suffix(".png"))
                kept.write_text(json.dumps({"text": clip.text, **row}))
        else:
            row = json.loads(kept.read_text())
        rows.append({"text": clip.text, **row})
        if sys.stderr.isatty():
            print(f"\r{part} {len(rows)}/{count} ", end="", file=sys.stderr, flush=True)
    if folder is not None:
        write_sheet(sorted(folder.glob("*.png"))[:SHEET_ROWS], folder.parent / "sheet.png")
    return rows


def recipe_of(config: GenerateConfig, needed: Iterable[str]) -> str:
    """A name for everything that determines the figures, other than the clip."""
    digests = [weights_digest(config.backbone, part) for part in needed]
    values = [asdict(part) for part in (config.anchor, config.schedule, config.resolution)]
    vae = asdict(config.backbone.vae)
    return hashlib.sha256(json.dumps([digests, values, vae]).encode()).hexdigest()[:12]


def strip(text: str, videos: Sequence[np.ndarray]) -> Image.Image:
    """Under its caption, a row of frames for each video."""
    rows = []
    for video in videos:
        chosen = video[np.linspace(0, len(video) - 1, SHEET_FRAMES).round().astype(int)]
        images = [Image.fromarray(frame) for frame in chosen]
        height = FRAME_WIDTH * video.shape[1] // video.shape[2]
        rows.append(np.hstack([np.asarray(i.resize((FRAME_WIDTH, height))) for i in images]))
    title = Image.new("RGB", (rows[0].shape[1], 16), "white")
    ImageDraw.Draw(title).text((4, 2), text, fill="black")
    return Image.fromarray(np.vstack([np.asarray(title), *rows]))


def write_sheet(strips: Sequence[Path], path: Path) -> None:
    """All strips below each other."""
    if strips:
        Image.fromarray(np.vstack([np.asarray(Image.open(s)) for s in strips])).save(path)


def table(part: str, rows: Sequence[Mapping[str, float]]) -> str:
    """The mean of every figure, as lines of a markdown table."""
    names = [name for name in rows[0] if name != "text"]
    means = {name: float(np.mean([row[name] for row in rows])) for name in names}
    return "\n".join(f"| {part} | {n} | {mean:.4g} | {len(rows)} |" for n, mean in means.items())


def by_word(rows: Sequence[Mapping[str, object]], words: Iterable[str], figure: str) -> str:
    """How often a figure is 1 among the captions with each of the words."""
    found = {w: [r[figure] for r in rows if f" {w} " in f" {r['text']} "] for w in words}
    return ", ".join(f"{w} {sum(v):.0f}/{len(v)}" for w, v in found.items())  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table of everything that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", help="a backbone's folder; otherwise the one in the package")
    parser.add_argument("--part", action="append", choices=[p for p in PARTS if p != "anchor"])
    parser.add_argument("--anchors-only", action="store_true", help="pipeline: the first stage")
    parser.add_argument("--prompts", "--count", type=int, default=64, help="clips per part")
    parser.add_argument("--out", type=Path, help="keeps figures and contact sheets")
    parser.add_argument("overrides", nargs="*", help="settings of generate, as key=value")
    given = parser.parse_args(arguments)
    config = compose("generate", given.overrides)[0].config
    if given.folder:
        folder = str(Path(given.folder).resolve())
        config = replace(config, backbone=replace(config.backbone, folder=folder))
    model = Networks(config)
    print("| part | figure | mean | N |\n|---|---|---|---|")
    notes = []
    for part in given.part or ["vae", "pipeline", "detail", "shortcut"]:
        part = "anchor" if part == "pipeline" and given.anchors_only else part
        rows = measure(part, model, given.prompts, given.out)
        print(table(part, rows), flush=True)
        for stage in ("anchor", "video"):
            if f"{stage} shape" in rows[0]:
                shape = by_word(rows, shapes.SHAPES, f"{stage} shape")
                motion = by_word(rows, shapes.MOTIONS, f"{stage} motion")
                notes.append(f"{part} {stage}: {shape}; {motion}")
    print("\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
