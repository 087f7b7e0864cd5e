"""Second stage: noise becomes the anchor, a low-resolution latent of the whole clip."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelwizard.diffusion.sampling import SolverState, Velocity, guided, sample
from pixelwizard.diffusion.schedules import Schedule, Step
from pixelwizard.models.wan.dit import TextKeyValues, WanDiT
from pixelwizard.parallel.guidance import CFGParallel

OnStep = Callable[[SolverState], None]


class Anchor:
    """Integrates the base network's velocity, guided by the text."""

    def __init__(
        self,
        network: WanDiT,
        schedule: Schedule,
        guidance: float,
        cfg: CFGParallel | None = None,
    ) -> None:
        self.network, self.schedule = network, schedule
        self.guidance, self.cfg = guidance, cfg

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
        with_text, without = (self.network.encode_text([t]) for t in (text, negative_text))
        velocity = guided(
            self._asking(self.network, with_text),
            self._asking(self.network, without),
            self.guidance,
            self.cfg,
        )
        return sample(
            velocity,
            noise_CTHW.unsqueeze(0),
            self.schedule,
            probe=self._asking(self.network.first_change, with_text),
            state=state,
            on_step=on_step,
        )[0]

    def _asking(self, network: Callable[..., Tensor], text: TextKeyValues) -> Velocity:
        """The network as a function of latent and step."""

        def ask(latent: Tensor, step: Step) -> Tensor:
            return network(latent, latent.new_tensor([step.timestep]), text)

        return ask
