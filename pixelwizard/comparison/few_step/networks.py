"""Real clips of the shapes that no training sees, and the networks of a configuration with them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pixelwizard.config.generate import SamplerSettings, StagesSettings
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.train import DegradationSettings
from pixelwizard.data import shapes
from pixelwizard.data.examples import degraded, shrink, to_video
from pixelwizard.diffusion.sampling import initial_noise
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import load_anchor, load_detail, load_text_encoder, load_vae
from pixelwizard.stages.decode import Decode
from pixelwizard.stages.latents import Anchor, Detail, EncodeText

FIRST_SCENE = 5_000_000
"""The scene of the first clip; the trainings' held-out examples start at 0 and 1,000,000."""


@dataclass(frozen=True)
class Clip:
    """One held-out caption and a real scene of it; the number seeds what is generated for it."""

    number: int
    text: str

    @property
    def scene(self) -> shapes.Scene:
        """The real clip."""
        return shapes.scene_for(self.text, FIRST_SCENE + self.number)

    def render(self, size: Geometry) -> np.ndarray:
        """The real clip's frames, uint8 [T, H, W, 3]."""
        return shapes.render(self.scene, size.width, size.height, size.frames)


def clips(count: int) -> list[Clip]:
    """Held-out captions, all different, always in the same order."""
    texts = shapes.prompts("heldout", count, seed=1)
    return [Clip(number, text) for number, text in enumerate(texts)]


class Networks:
    """The stages of a configuration on ``device``, each loaded when it is first needed, and what
    they get for a clip.

    Latents are float32 [C, T, H, W], clips uint8 [T, H, W, 3]. ``detail_network`` may be set.
    """

    def __init__(self, config: StagesSettings, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, device

    @cached_property
    def encode_text(self) -> EncodeText:
        return EncodeText(load_text_encoder(self.config.backbone, self.device))

    @cached_property
    def vae(self) -> WanVAE:
        return load_vae(self.config.backbone, self.device)

    @cached_property
    def anchor(self) -> Anchor:
        schedule = make_schedule(self.config.anchor, self.config.resolution.anchor_shift)
        network = load_anchor(self.config.backbone, self.device)
        return Anchor(network, schedule, self.config.anchor.guidance)

    @cached_property
    def detail_network(self) -> ShortcutDiT:
        return load_detail(self.config.backbone, self.device)

    def detail(self, sampler: SamplerSettings) -> Detail:
        """The second stage with another schedule."""
        schedule = make_schedule(sampler, self.config.resolution.shift)
        return Detail(self.detail_network, schedule, sampler.guidance)

    def texts(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """The embeddings of a clip's caption and of the negative prompt."""
        return self.encode_text(clip.text), self.encode_text(self.config.backbone.negative_prompt)

    def noise(self, clip: Clip, size: Geometry, stream: int) -> Tensor:
        """The noise that a clip begins as; ``stream`` tells its stages apart."""
        shape = (self.config.backbone.dit.in_dim, *size.latent_grid)
        return initial_noise(shape, 10_000 * stream + clip.number).to(self.device)

    def decoded(self, latent: Tensor) -> np.ndarray:
        """The clip of a latent."""
        return np.concatenate(list(Decode(self.vae)(latent)))

    @torch.no_grad()
    def encoded(self, video_CTHW: Tensor) -> Tensor:
        """The latent of a clip."""
        return self.vae.encode(video_CTHW.to(self.device))[0]

    def condition(
        self, clip: Clip, rule: DegradationSettings | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """A real clip and the anchor latent of its reduced version, degraded if there is a rule."""
        real = clip.render(self.config.resolution.geometry)
        video, size = to_video(real), self.config.resolution.anchor_geometry
        draw = random.Random(clip.number)
        small = degraded(video, size, rule, draw) if rule else shrink(video, size)
        return real, self.encoded(small)
