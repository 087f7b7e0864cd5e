"""Second stage: noise becomes the anchor, a low-resolution latent of the whole clip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelwizard.diffusion.guidance import guided
from pixelwizard.diffusion.sampling import SolverState, Velocity, sample
from pixelwizard.diffusion.schedules import Schedule, Step
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.parallel.guidance import CFGParallel

OnStep = Callable[[SolverState], None]


class Anchor:
    """Integrates the base network's velocity, guided by the text."""

    def __init__(
        self,
        network: WanDiT,
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
        text: Tensor,
        negative_text: Tensor,
        state: SolverState | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Float32 noise and the ``[L, text_dim]`` embeddings -> the latent, float32 CTHW.

        ``state``: where an earlier call stopped; ``on_step`` receives the state after every step.
        """
        passes = (self._velocity(text), self._velocity(negative_text))
        velocity = guided(*passes, self.guidance, self.halves)
        noise = noise_CTHW.unsqueeze(0)
        return sample(velocity, noise, self.schedule, state=state, on_step=on_step)[0]

    def _velocity(self, text: Tensor) -> Velocity:
        keys_values = self.network.encode_text([text])

        def velocity(latent: Tensor, step: Step) -> Tensor:
            return self.network(latent, latent.new_tensor([step.timestep]), keys_values)

        return velocity
