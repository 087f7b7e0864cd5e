"""Refined clips of tiny's own data through files, against what filters make of them: run by hand.

    python measure/refine.py --clips 8 --out outputs/refine
    python measure/refine.py --clips 3 --frames 50 --out outputs/refine50

Held-out clips are written as mp4 at the anchor's size, once averaged down and once degraded as in
upstream's training, and refined by ``pixelwizard videos=DIR``. Printed are PSNR to the real
clip of the refined file, of the input enlarged by bicubic and by Lanczos and written to such files,
and of what the autoencoder makes of the input, enlarged bicubically. Two bounds follow, of networks
that predict the real clip's latent: what the autoencoder makes of the real clip, as it is and with
``agree=clip``. Clips longer than a window
also give the mean step between frames where a window begins or ends, and elsewhere, less the real
clip's.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import torch
from gates import REFERENCE

import pixelwizard as pw
from pixelwizard.cli.compose import compose
from pixelwizard.comparison.few_step.networks import FIRST_SCENE
from pixelwizard.config.geometry import Geometry, nearest_frames, windows_of
from pixelwizard.config.output import VideoSettings
from pixelwizard.data import shapes
from pixelwizard.data.examples import degraded, shrink, to_video
from pixelwizard.data.source_files import Source, frames_of, source_of
from pixelwizard.io.reading import read_frames
from pixelwizard.io.video import VideoWriter
from pixelwizard.models.wan.vae import WanVAE, to_pixels
from pixelwizard.models.weights import load_vae
from pixelwizard.stages.agree import with_details
from pixelwizard.stages.decode import stream_pixels
from pixelwizard.stages.latents import EncodeVideo

VIDEO, ANCHOR, FRAMES = (512, 320), (256, 160), 17
Frames = np.ndarray


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--out", type=Path, default=Path("outputs/refine"))
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    table = {}
    for kind in ("averaged", "degraded"):
        folder = asked.out / kind
        real = [write_clip(folder / "clips", n, asked.frames, kind) for n in range(asked.clips)]
        words = [f"videos={folder / 'clips'}", f"run_dir={folder / 'run'}", "save_anchor=true"]
        run = pw.generate([*words, "metrics=none", "tracker=none", *asked.overrides])
        rows = [
            row(source_of("video", folder / "clips" / f"{id}.mp4", "clip"), video, clip)
            for (id, video), clip in zip(run.videos.items(), real, strict=True)
        ]
        table[kind] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        print(kind, json.dumps({name: round(value, 3) for name, value in table[kind].items()}))
    (asked.out / "table.json").write_text(json.dumps(table, indent=1))


def write_clip(folder: Path, number: int, frames: int, kind: str) -> Frames:
    """Write a held-out clip at the anchor's size with its text; the real clip, [T, H, W, 3]."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = shapes.scene(FIRST_SCENE + number, "heldout")
    real = shapes.render(scene, *VIDEO, frames)
    size, video = Geometry(*ANCHOR, padded(frames)), to_video(real)
    draw = random.Random(number)
    small = degraded(video, size, REFERENCE, draw) if kind == "degraded" else shrink(video, size)
    path = folder / f"{number:03}.mp4"
    path.with_suffix(".txt").write_text(shapes.caption(scene))
    if not path.exists():
        with VideoWriter(path, *ANCHOR, VideoSettings(crf=1)) as writer:
            writer.write(to_pixels(small[0]).numpy())
    return real


def row(source: Source, video: Path, real: Frames) -> dict[str, float]:
    """The figures of one clip; ``video`` has its anchor next to it."""
    made = np.stack(list(read_frames(video)))
    size = Geometry(*VIDEO, padded(len(real)))
    anchor = source_of("video", video.with_name(f"{video.stem}.anchor.mp4"), "anchor")
    found = {"refined": psnr(made, real)}
    for name in ("bicubic", "lanczos"):
        frames = np.stack(list(frames_of(source, size, size, name)))[: len(real)]
        found[name] = psnr(written(frames, video.with_name(f"{name}.mp4")), real)
    known = np.stack(list(frames_of(anchor, size, size)))[: len(real)]
    found["autoencoder, bicubic"] = psnr(known, real)
    decoded = reconstructed(real)
    low = frames_of(source, Geometry(*ANCHOR, size.frames), size)
    kept = with_details((frame[None] for frame in decoded), low)
    for name, frames in (("bound", decoded), ("bound, agree=clip", np.concatenate(list(kept)))):
        found[name] = psnr(written(frames, video.with_name(f"{name}.mp4")), real)
    found["refined above bicubic"] = found["refined"] - found["bicubic"]
    found["refined above autoencoder, bicubic"] = found["refined"] - found["autoencoder, bicubic"]
    return found | (seams(made, real) if len(real) > FRAMES else {})


@cache
def autoencoder() -> WanVAE:
    """That of tiny."""
    return load_vae(compose("generate", [], ())[0].config.backbone)


def reconstructed(real: Frames) -> Frames:
    """What the autoencoder makes of the real clip."""
    vae, missing = autoencoder(), padded(len(real)) - len(real)
    clip = np.concatenate([real, np.repeat(real[-1:], missing, 0)])
    latent = EncodeVideo(vae, (FRAMES - 1) // 4 + 1)(clip)
    weight = next(vae.parameters())
    with torch.no_grad():
        frames = list(stream_pixels(vae, latent[None].to(weight.dtype)))
    return np.stack([frame.numpy() for frame in frames[: len(real)]])


def written(frames: Frames, path: Path) -> Frames:
    """The frames as a file has them that is written like a refined one."""
    with VideoWriter(path, *VIDEO, VideoSettings()) as writer:
        writer.write(frames)
    return np.stack(list(read_frames(path)))


def seams(made: Frames, real: Frames) -> dict[str, float]:
    """Mean absolute step between frames, less the real clip's, at window ends and elsewhere."""
    steps = [np.abs(np.diff(v.astype(np.float32), axis=0)).mean((1, 2, 3)) for v in (made, real)]
    excess = steps[0] - steps[1]
    latents = (padded(len(real)) - 1) // 4 + 1
    spans = windows_of(latents, (FRAMES - 1) // 4 + 1)
    ends = {4 * s.start - 4 for s in spans[1:]} | {4 * s.stop - 4 for s in spans[:-1]}
    at = [n for n in range(len(excess)) if n in ends]
    group = [n for n in range(len(excess)) if n % 4 == 0 and n not in ends]
    return {
        "step at window ends": float(excess[at].mean()),
        "step at other latent frames": float(excess[group].mean()),
        "step elsewhere": float(np.delete(excess, at).mean()),
    }


def padded(frames: int) -> int:
    """The next 4n+1."""
    low, high = nearest_frames(frames)
    return low if low == frames else high


def psnr(made: Frames, real: Frames) -> float:
    """Decibels of uint8 frames."""
    error = np.mean((made.astype(np.float32) - real) ** 2)
    return 20 * math.log10(255) - 10 * math.log10(error)


if __name__ == "__main__":
    main()
