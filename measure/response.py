"""Measures how much the pixels depend on every channel of a latent: run by hand.

    python measure/response.py
    python measure/response.py backbone.folder=EXPORT

The mean square change of the pixels when one channel of three encoded clips gets noise of deviation
0.2, and its square root with mean 1, as objective.flow.channels takes it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from pixelwizard.cli.compose import compose
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.data import shapes
from pixelwizard.data.examples import to_video
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import load_vae
from pixelwizard.stages.decode import Decode

CLIPS, FRAMES, DEVIATION = 3, 5, 0.2
FIRST_SCENE = 2_000_000
"""The scene of the first clip; no training has it."""


def decoded(vae: WanVAE, latent_CTHW: torch.Tensor) -> np.ndarray:
    """Frames in 0..1, [T, H, W, 3]."""
    return np.concatenate(list(Decode(vae)(latent_CTHW))) / 255


def response(vae: WanVAE, size: ResolutionSettings, number: int) -> np.ndarray:
    """The mean square change of a clip's pixels by channel, over their mean: [C]."""
    scene, draw = shapes.scene(FIRST_SCENE + 7 * number), torch.Generator().manual_seed(number)
    clip = shapes.render(scene, size.width, size.height, FRAMES)
    with torch.no_grad():
        latent_CTHW = vae.encode(to_video(clip))[0]
    plain, found = decoded(vae, latent_CTHW), []
    for channel in range(len(latent_CTHW)):
        noisy = latent_CTHW.clone()
        noisy[channel] += DEVIATION * torch.randn(noisy[channel].shape, generator=draw)
        found.append(np.square(decoded(vae, noisy) - plain).mean())
    return np.array(found) / np.mean(found)


def main(overrides: list[str]) -> None:
    config = compose("generate", overrides)[0].config
    vae = load_vae(config.backbone)
    mean = np.mean([response(vae, config.resolution, number) for number in range(CLIPS)], axis=0)
    weights = np.sqrt(mean) / np.sqrt(mean).mean()
    print("response:", np.round(mean, 2).tolist())
    print("objective.flow.channels:", np.round(weights, 2).tolist())


if __name__ == "__main__":
    main(sys.argv[1:])
