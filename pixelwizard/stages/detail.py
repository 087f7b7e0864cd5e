"""Third stage: noise becomes the high-resolution latent in a few steps, given the anchor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelwizard.config.geometry import PATCH
from pixelwizard.diffusion.sampling import SolverState, Velocity, guided, sample
from pixelwizard.diffusion.schedules import Schedule, Step
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import TextKeyValues
from pixelwizard.parallel.guidance import CFGParallel
from pixelwizard.stages.anchor import OnStep


class Detail:
    """Integrates the detail network's velocity, conditioned on the size of each step."""

    def __init__(
        self,
        network: ShortcutDiT,
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
        with_text, without = (self.network.encode_text([t]) for t in (text, negative_text))
        velocity = guided(
            self._asking(self.network, with_text, features),
            self._asking(self.network, without, features),
            self.guidance,
            self.cfg,
        )
        return sample(
            velocity,
            noise_CTHW.unsqueeze(0),
            self.schedule,
            probe=self._asking(self.network.first_change, with_text, features),
            state=state,
            on_step=on_step,
        )[0]

    def _asking(
        self, network: Callable[..., Tensor], text: TextKeyValues, features: Tensor
    ) -> Velocity:
        """The network as a function of latent and step."""

        def ask(latent: Tensor, step: Step) -> Tensor:
            times = latent.new_tensor([step.timestep])
            size = None if step.dt is None else latent.new_tensor([float(step.dt)])
            return network(latent, times, text, size, features)

        return ask
