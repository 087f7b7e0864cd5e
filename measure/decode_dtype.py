"""Measures the decode in bfloat16 against float32: run by hand.

    OMP_NUM_THREADS=1 python measure/decode_dtype.py --clips 8

The miniature's autoencoder decodes the latents of held-out clips of ``resolution=demo``. It prints
the mean and the least PSNR of the frames in bfloat16 to those in float32, that of both to the clip,
and the processor seconds of both, the fastest of calls in turns.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch

from pixelwizard.cli.compose import compose
from pixelwizard.data import shapes
from pixelwizard.data.examples import to_video
from pixelwizard.models.weights import load_vae
from pixelwizard.stages.decode import Decode

HELD_OUT = 5_000_000


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB, over all pixels of two uint8 clips."""
    error = np.mean((one.astype(np.float32) - other) ** 2)
    return float(10 * np.log10(255**2 / max(float(error), 1e-12)))


@torch.no_grad()
def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    clips = parser.parse_args().clips
    config = compose("generate", [])[0].config
    size, vae = config.resolution, load_vae(config.backbone)
    decodes = Decode(vae), Decode(copy.deepcopy(vae).to(torch.bfloat16))
    rounded, kept, lost, seconds = [], [], [], [[], []]
    for seed in range(HELD_OUT, HELD_OUT + clips):
        scene = shapes.scene(seed, split="heldout")
        clip = shapes.render(scene, size.width, size.height, size.frames)
        latent, made = vae.encode(to_video(clip))[0], []
        for decode, spent in zip(decodes, seconds, strict=True):
            started = time.process_time()
            made.append(np.concatenate(list(decode(latent))))
            spent.append(time.process_time() - started)
        rounded.append(psnr(made[1], made[0]))
        kept.append(psnr(made[0], clip))
        lost.append(psnr(made[1], clip))
    print(f"bfloat16 to float32: {np.mean(rounded):.1f} dB, least {min(rounded):.1f} dB")
    print(f"to the clip: float32 {np.mean(kept):.2f} dB, bfloat16 {np.mean(lost):.2f} dB")
    print(f"processor seconds: float32 {min(seconds[0]):.2f}, bfloat16 {min(seconds[1]):.2f}")


if __name__ == "__main__":
    main()
