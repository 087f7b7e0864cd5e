"""Measures how far tiles are from the decode of whole frames: run by hand, or imported.

    python measure/seams.py --out outputs/seams
    python measure/seams.py --vae random --cells 12x12 --tiles 2x2

tiny     the shipped autoencoder on the latent of a real clip of ``resolution=demo``
random   Wan2.2's sizes with random weights, float32, on a random latent of one frame

``--out`` gets a picture per grid: the frame whole, in tiles, and 128 plus 16 times the difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.config.geometry import SPATIAL_STRIDE, WHOLE, Tiles
from pixelwizard.data import shapes
from pixelwizard.data.examples import to_video
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import load_vae
from pixelwizard.stages.decode import Decode, spans


@dataclass(frozen=True)
class Seams:
    """How a tiled clip differs from the whole decode: PSNR in dB over all pixels, and a line.

    The line is the one, of those where a blend begins, is half done or ends, whose mean step in
    grey levels of 255 grows most: by ``excess``, from ``step`` without tiles. One that shows has an
    excess of several.
    """

    psnr_db: float
    excess: float
    step: float


def seams(tiled: np.ndarray, whole: np.ndarray, tiles: Tiles) -> Seams:
    """Compares two uint8 clips ``[T, H, W, 3]`` of the same latent."""
    error = np.mean(
        [np.mean((a.astype(float) - b) ** 2) for a, b in zip(tiled, whole, strict=True)]
    )
    lines = [
        (axis, (span.start + cell) * SPATIAL_STRIDE)
        for axis, count in ((1, tiles.rows), (2, tiles.columns))
        for span in spans(whole.shape[axis] // SPATIAL_STRIDE, count, tiles.overlap)[1:]
        for cell in (0, span.shared // 2, span.shared)
    ]
    steps = [(_step(tiled, *line), _step(whole, *line)) for line in lines]
    after, before = max(steps, key=lambda pair: pair[0] - pair[1])
    return Seams(float(10 * np.log10(255**2 / max(error, 1e-12))), after - before, before)


def _step(clip: np.ndarray, axis: int, line: int) -> float:
    """Mean absolute difference between the pixels on both sides of a line."""
    before, after = np.take(clip, [line - 1, line], axis).astype(float).swapaxes(0, axis)
    return float(np.abs(after - before).mean())


def shipped_clip(seed: int = 5_000_000) -> tuple[WanVAE, Tensor]:
    """The miniature's autoencoder, and a real clip's latent CTHW at the demo's size."""
    config = compose("generate", [])[0].config
    vae, size = load_vae(config.backbone), config.resolution
    scene = shapes.scene(seed, split="heldout")
    with torch.no_grad():
        clip = shapes.render(scene, size.width, size.height, size.frames)
        return vae, vae.encode(to_video(clip))[0]


def random_clip(height: int, width: int) -> tuple[WanVAE, Tensor]:
    """Wan2.2's autoencoder with random weights, and a random latent of one frame."""
    torch.manual_seed(0)
    sizes = compose("generate", ["backbone=wan2_2_ti2v_5b"])[0].config.backbone.vae
    vae = WanVAE(sizes).eval().requires_grad_(False)
    return vae, torch.randn(sizes.z_dim, 1, height, width)


def decoded(vae: WanVAE, latent_CTHW: Tensor, tiles: Tiles) -> np.ndarray:
    """uint8 [T, H, W, 3]."""
    return np.concatenate(list(Decode(vae, tiles)(latent_CTHW)))


def picture(whole: np.ndarray, tiled: np.ndarray) -> Image.Image:
    """The last frames of both clips and their difference, side by side."""
    difference = 128 + 16 * (tiled[-1].astype(int) - whole[-1])
    return Image.fromarray(np.hstack([whole[-1], tiled[-1], difference.clip(0, 255).astype("u1")]))


def pair(text: str) -> tuple[int, int]:
    """``2x3`` -> (2, 3)."""
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row of a markdown table for each grid of tiles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vae", choices=["tiny", "random"], default="tiny")
    parser.add_argument("--cells", type=pair, default=(12, 12), help="latent size of random")
    parser.add_argument("--tiles", type=pair, nargs="+", default=[(1, 3), (1, 4), (2, 2), (3, 4)])
    parser.add_argument("--overlap", type=int, default=3, help="latent rows and columns")
    parser.add_argument("--out", type=Path, help="a folder for pictures")
    given = parser.parse_args(arguments)
    vae, latent = shipped_clip() if given.vae == "tiny" else random_clip(*given.cells)
    whole = decoded(vae, latent, WHOLE)
    for rows, columns in given.tiles:
        tiles = Tiles(rows, columns, given.overlap).within(*latent.shape[2:])
        tiled = decoded(vae, latent, tiles)
        found, name = seams(tiled, whole, tiles), f"{tiles.rows}x{tiles.columns}"
        figures = f"{found.psnr_db:.1f} dB | {found.excess:.2f} | {found.step:.2f}"
        print(f"| {given.vae} | {name} | {figures} |", flush=True)
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            picture(whole, tiled).save(given.out / f"{given.vae}-{name}.png")


if __name__ == "__main__":
    main()
