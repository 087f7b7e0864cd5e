"""The normalisation of an autoencoder's latents, measured on real clips."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.data import shapes
from pixelwizard.data.examples import to_video
from pixelwizard.models.wan.vae import WanVAE

CLIPS = 24
"""Two at the anchor's size for every one at the video's."""
FIRST_SCENE = 2_000_000


@torch.inference_mode()
def latent_statistics(vae: WanVAE, size: ResolutionSettings) -> tuple[list[float], list[float]]:
    """Mean and scale of every latent channel: ``latent_mean`` and ``latent_std`` of a backbone.

    Whitening (scale = deviation) gives a channel with little effect on the pixels the same share
    of a diffusion loss as one that carries the picture. The encoder's posterior deviation tells how
    precisely the pixels need a channel: deviation / posterior deviation is the channel's
    signal-to-noise ratio, its importance. Dividing by the posterior deviation alone would weight
    fully by importance, and unimportant channels would be small compared to the noise at nearly
    every time. The scale is a compromise: the geometric mean of both deviations, times
    one factor for all channels that brings the root mean square of the normalised latent to 1.
    """
    device = next(vae.parameters()).device
    moments = [vae.moments(video.to(device)) for video in _videos(size)]
    mean = torch.cat([_by_channel(m) for m, _ in moments], dim=1)
    variance = torch.cat([_by_channel(v) for _, v in moments], dim=1).clamp(-12, 6).exp()
    deviation = mean.std(dim=1)
    scale = (deviation * variance.mean(dim=1).sqrt()).sqrt()
    scale *= (deviation / scale).square().mean().sqrt()
    return mean.mean(dim=1).tolist(), scale.tolist()


def _videos(size: ResolutionSettings) -> Iterator[Tensor]:
    for number in range(CLIPS):
        clip = size.geometry if number % 3 == 0 else size.anchor_geometry
        scene = shapes.scene(FIRST_SCENE + 7 * number)
        yield to_video(shapes.render(scene, clip.width, clip.height, clip.frames))


def _by_channel(latent_1CTHW: Tensor) -> Tensor:
    """[C, everything else]"""
    return latent_1CTHW[0].flatten(1)
