"""Third stage: noise becomes the high-resolution latent in a few steps, steered by the anchor."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.config.geometry import PATCH
from pixelwizard.diffusion.guidance import guided
from pixelwizard.diffusion.sampling import SolverState, Velocity, sample
from pixelwizard.diffusion.schedules import Schedule, Step
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.parallel.guidance import CFGParallel
from pixelwizard.stages.anchor import OnStep


class Detail:
    """Integrates the detail network's velocity; it is told the size of each step."""

    def __init__(
        self,
        network: ShortcutDiT,
        schedule: Schedule,
        guidance: float,
        halves: CFGParallel | None = None,
    ) -> None:
        self.network, self.schedule = network, schedule
        self.guidance, self.halves = guidance, halves

    @torch.no_grad()
    def __call__(
        self,
        noise_CTHW: Tensor,
        anchor_CTHW: Tensor,
        text: Tensor,
        negative_text: Tensor,
        state: SolverState | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Float32 noise, the anchor and the ``[L, text_dim]`` embeddings -> the latent, float32.

        Both passes of the guidance see the anchor. ``state`` and ``on_step`` as in ``Anchor``.
        """
        frames, height, width = noise_CTHW.shape[1:]
        grid = (frames, height // PATCH, width // PATCH)
        features = self.network.encode_anchor(anchor_CTHW.unsqueeze(0), grid)
        passes = (self._velocity(text, features), self._velocity(negative_text, features))
        velocity = guided(*passes, self.guidance, self.halves)
        noise = noise_CTHW.unsqueeze(0)
        return sample(velocity, noise, self.schedule, state=state, on_step=on_step)[0]

    def _velocity(self, text: Tensor, features: Tensor) -> Velocity:
        keys_values = self.network.encode_text([text])

        def velocity(latent: Tensor, step: Step) -> Tensor:
            times = latent.new_tensor([step.timestep])
            size = None if step.dt is None else latent.new_tensor([float(step.dt)])
            return self.network(latent, times, keys_values, size, features)

        return velocity
