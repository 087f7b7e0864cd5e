"""Image to video in training: samples whose first latent frame is given.

B samples; a latent is [B, C, T, H, W], a timestep and a step size [B], in timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pixelwizard.diffusion.sampling import keyed_generator, per_sample


@dataclass(frozen=True)
class FirstFrames:
    """The clean first latent frames [B, C, 1, H, W], and which samples [B] are given theirs."""

    latent: Tensor
    given_B: Tensor

    def put(self, x_t: Tensor, timestep_B: Tensor, step_size_B: Tensor) -> tuple[Tensor, ...]:
        """What the network gets: the given frames in place, their time and step size 0, [B, 2]."""
        first = torch.where(per_sample(self.given_B), self.latent.to(x_t), x_t[:, :, :1])
        times, sizes = (
            torch.stack((values.masked_fill(self.given_B, 0), values), dim=1)
            for values in (timestep_B, step_size_B)
        )
        return torch.cat((first, x_t[:, :, 1:]), dim=2), times, sizes

    def mean(self, error_BCTHW: Tensor) -> Tensor:
        """The mean over each sample [B], without the frame that it was given."""
        generated_B = error_BCTHW[:, :, 1:].flatten(1).mean(1)
        return torch.where(self.given_B, generated_B, error_BCTHW.flatten(1).mean(1))


def first_frames(latent_BCTHW: Tensor, share: float, *key: object) -> FirstFrames | None:
    """A share of the samples, drawn by ``key``, given the first frame of their latent; or None."""
    if not share:
        return None
    lot_B = torch.rand(len(latent_BCTHW), generator=keyed_generator(*key, "first frame"))
    return FirstFrames(latent_BCTHW[:, :, :1], (lot_B < share).to(latent_BCTHW.device))
