"""Distribution matching: the student's samples become as likely as the teacher's.

Source: DMD2 (arXiv 2405.14867, eq. 3 and 4) and tianweiy/DMD2; ``jumps`` is AnyFlow's second stage
(arXiv 2605.13724, NVlabs/AnyFlow ``trainer_wan_anyflow_onpolicy.py``, Apache-2.0). The teacher
knows the score of the real distribution, a second network S that of the student's. A clean sample
xg of the student is noised to a random time; with x0_T (guided) and x0_S their clean latents
there,

    gradient = (x0_S - x0_T) / mean|xg - x0_T|,  loss = 1/2 |xg - sg[xg - gradient]|^2.

In steps of kind ``score`` S learns flow matching on fresh samples, at a uniform time before the
shift. ``renoise``: the student steps to 0 from ``timesteps``, noised again between; gradients in
the last pass only. ``jumps``: noise to t_k, t_k+1, 0, gradients through all three. Data give only
the texts and anchors. Passes of the student's step: 1 with gradient and up to 2 without
(``jumps``: 3 with), then 1 of S and 2 of the teacher; of the score's: up to 3 of the student, 1 of
S with gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import add_noise, keyed_generator, noise_like, per_sample
from pixelwizard.diffusion.schedules import TRAIN_TIMESTEPS, shift_sigma, shifted_grid
from pixelwizard.training.objectives.base import Objective, Target
from pixelwizard.training.passes import Passes
from pixelwizard.training.targets import flow_matching_target

DISTRIBUTION, SCORE = "distribution", "score"


class DMD(Objective):
    """One step for the student, then ``ratio`` - 1 for the score of its samples."""

    kinds = (DISTRIBUTION, SCORE)
    networks = ("teacher", "score")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.settings, self.seed = config.objective.dmd, config.seed
        self.score_lr = self.settings.score_lr
        self.sampled_with = "whole" if self.settings.rollout == "renoise" else "raw"

    def target_kind(self, generator: torch.Generator, progress: float) -> str:
        return DISTRIBUTION if self.step % self.settings.ratio == self.settings.ratio - 1 else SCORE

    def target(self, kind: str, network: Passes, x0: Tensor, generator: torch.Generator) -> Target:
        ranks = keyed_generator(
            "rollout", self.seed, self.step if torch.is_grad_enabled() else "held out"
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and kind == DISTRIBUTION):
            clean = self.rollout(network, noise_like(x0, generator), generator, ranks)
        low, high = (time / TRAIN_TIMESTEPS for time in self.settings.between)
        even_B = torch.rand(len(x0), generator=generator)
        time_B = TRAIN_TIMESTEPS * shift_sigma(even_B, self.shift).clamp(low, high).to(x0)
        noise, none_B, ones_B = noise_like(x0, generator), 0 * time_B, torch.ones_like(time_B)
        x_t, velocity = flow_matching_target(clean.detach(), noise, time_B)
        if kind == SCORE:
            found = network.score(x_t, time_B, none_B)
            return Target(x_t, time_B, none_B, velocity, ones_B, found=found)
        gradient = self.gradient(network, clean.detach(), x_t, time_B)
        goal = clean.detach() - gradient
        return Target(x_t, time_B, none_B, goal, 0.5 * ones_B, found=clean)

    @torch.no_grad()
    def gradient(self, network: Passes, clean: Tensor, x_t: Tensor, time_B: Tensor) -> Tensor:
        """Where the student's samples are denser than the teacher's, of mean size about 1."""
        sigma, none_B = per_sample(time_B / TRAIN_TIMESTEPS), torch.zeros_like(time_B)
        real = x_t - sigma * network.teacher.guided(self.settings.guidance, x_t, time_B, none_B)
        fake = x_t - sigma * network.score(x_t, time_B, none_B)
        size_B = network.conditions.mean((clean - real).abs()).clamp(min=1e-6)
        return (fake - real) / per_sample(size_B)

    def rollout(
        self, network: Passes, noise: Tensor, own: torch.Generator, ranks: torch.Generator
    ) -> Tensor:
        """Clean latents of the student, like ``noise``, with gradients if they are enabled.

        ``own`` draws noise; ``ranks`` draws steps, the same on every rank: all make as many passes.
        """
        if self.settings.rollout == "renoise":
            return self.renoised(network, noise, own, ranks)
        count = self.settings.counts[below(len(self.settings.counts), ranks)]
        step = below(count, ranks)
        times = [TRAIN_TIMESTEPS * s for s in (*shifted_grid(1.0, count, self.shift), 0.0)]
        x = noise
        for start, end in zip([times[0], times[step]], [times[step], times[step + 1]], strict=True):
            x = self.jump(network, x, start, end)
        return self.jump(network, x, times[step + 1], 0.0)

    def renoised(
        self, network: Passes, noise: Tensor, own: torch.Generator, ranks: torch.Generator
    ) -> Tensor:
        """The clean latent at a drawn step, those before it noised again."""
        times = self.settings.timesteps
        last, x = below(len(times), ranks), noise
        with torch.no_grad():
            for time, following in zip(times[:last], times[1:], strict=False):
                clean = self.jump(network, x, time, 0.0)
                x = add_noise(clean, noise_like(noise, own), following / TRAIN_TIMESTEPS)
        return self.jump(network, x, times[last], 0.0)

    def jump(self, network: Passes, x: Tensor, start: float, end: float) -> Tensor:
        """One step of the student from a time to an earlier one; none where they are equal."""
        if start == end:
            return x
        time_B = torch.full((len(x),), start, dtype=x.dtype, device=x.device)
        size_B = torch.full_like(time_B, start - end)
        return x - (start - end) / TRAIN_TIMESTEPS * network(x, time_B, size_B)


def below(count: int, generator: torch.Generator) -> int:
    """A random number from 0 to ``count`` - 1."""
    return int(torch.randint(count, (), generator=generator))
