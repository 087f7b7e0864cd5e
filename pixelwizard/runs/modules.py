"""What is trained: one Lightning module per objective, all randomness drawn from (seed, step).

B samples, C latent channels, T H W the latent grid. A batch is a dictionary with the number of its
step, so that a continued training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pixelwizard.diffusion.schedules import SHORTCUT_HALVINGS, even_step, make_schedule
from pixelwizard.geometry import PATCH
from pixelwizard.runs.optimizers import MuonAdamW, make_optimizer, rate
from pixelwizard.shortcut.network import ShortcutDiT
from pixelwizard.shortcut.targets import (
    INDEX_BIAS,
    TrainingGrid,
    flow_matching_target,
    noise_span_weights,
    sample_shortcuts,
    self_consistency_target,
    training_grid,
)
from pixelwizard.train_settings import TrainConfig
from pixelwizard.wan.dit import WanDiT
from pixelwizard.wan.umt5 import TextEncoder
from pixelwizard.wan.vae import WanVAE

Batch = dict[str, Any]

MORE_NOISE = 2.2
"""Most that is added to the posterior's log-variance for a decoder alone: 3 times its deviation."""


def generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """The random numbers of one step; streams are independent of each other."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 8 + stream) % 2**32)


class TrainingModule(L.LightningModule, ABC):
    """A network, its moving average and its optimizer; subclasses say what the loss is.

    ``elapsed`` counts the seconds of all steps, also of the trainings that this one continues.
    """

    def __init__(self, config: TrainConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network
        decay = config.optimizer.ema

        def average(kept: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
            share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
            torch._foreach_lerp_(kept, new, share)

        self.average = AveragedModel(network, multi_avg_fn=average).requires_grad_(False)
        self.elapsed = 0.0
        self.figures: dict[str, float] = {}
        self._started = 0.0

    @abstractmethod
    def loss(self, network: Any, batch: Batch) -> Tensor:
        """The loss of a batch; draws only from the generator of the batch's step."""

    def is_matrix(self, name: str, parameter: Tensor) -> bool:
        """Whether Muon takes a parameter: the linears inside the blocks."""
        return name.startswith("blocks.") and parameter.ndim == 2

    @property
    def progress(self) -> float:
        """The share of the training that is done, by steps or by time, whichever is further."""
        settings = self.config.trainer
        by_steps = self.global_step / settings.max_steps
        by_time = self.elapsed / 60 / settings.max_minutes if settings.max_minutes else 0.0
        return max(by_steps, by_time)

    @property
    def seconds_left(self) -> float:
        """How long the rest will take at the pace so far."""
        return self.elapsed / max(self.progress, 1e-9) * (1 - min(self.progress, 1.0))

    def configure_optimizers(self) -> MuonAdamW:
        return make_optimizer(self.network, self.config.optimizer, self.is_matrix)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._started = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(self.network, batch)
        self.figures["loss"] = float(loss.detach())
        return loss

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Clip the gradient to the configured norm and remember the norm it had."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.clip)
        self.figures["grad_norm"] = float(norm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        """Set the rates, step, and let the average follow."""
        factor = rate(self.progress, self.global_step, self.config.optimizer)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.figures["lr"] = optimizer.param_groups[-1]["lr"]
        optimizer.step(closure=closure)
        self.average.update_parameters(self.network)
        seconds = time.monotonic() - self._started
        self.figures["seconds"] = seconds
        self.elapsed += seconds

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.progress >= 1:
            self.trainer.should_stop = True

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The averaged network's loss on held-out examples, the same noise every time."""
        loss = float(self.loss(self.average.module, batch))
        self.figures["held_out"] = (self.figures.get("held_out", 0.0) * batch_idx + loss) / (
            batch_idx + 1
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["elapsed"] = self.elapsed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.elapsed = checkpoint["elapsed"]


class TextTable:
    """Embeddings of texts by a frozen encoder, each text encoded once."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[Tensor]:
        """One [L_i, text_dim] float32 tensor per text."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self.encoder([text])[0].float()
        return [self._known[text] for text in texts]


class AnchorModule(TrainingModule):
    """Flow matching of the anchor network on latents and their captions."""

    network: WanDiT

    def __init__(self, config: TrainConfig, network: nn.Module, texts: TextTable) -> None:
        super().__init__(config, network)
        self.texts = texts
        grid = training_grid(config.objective.flow.shift)
        if config.objective.flow.weighting == "uniform":
            grid = TrainingGrid(grid.timesteps, torch.ones_like(grid.weights))
        self.grid = grid

    def draw_times(self, count: int, draw: torch.Generator) -> Tensor:
        """Timesteps [B]: one from each of B equal parts of the training grid, in random order."""
        places = (torch.arange(count) + torch.rand(count, generator=draw)) / count
        index = (places * len(self.grid.timesteps)).long()
        return self.grid.timesteps[index[torch.randperm(count, generator=draw)]]

    def kept(self, count: int, draw: torch.Generator) -> Tensor:
        """False [B] where text (and anchor) are dropped."""
        return torch.rand(count, generator=draw) >= self.config.objective.flow.text_drop

    def embeddings(self, captions: Sequence[str], kept_B: Tensor) -> list[Tensor]:
        """Embeddings of the captions, of the empty text where they are dropped."""
        chosen = [c if k else "" for c, k in zip(captions, kept_B.tolist(), strict=True)]
        return [embedding.to(self.device) for embedding in self.texts(chosen)]

    def loss(self, network: Any, batch: Batch) -> Tensor:
        x0_BCTHW, draw = batch["latent"].float(), generator(self.config.seed, batch["step"])
        timestep_B = self.draw_times(len(x0_BCTHW), draw)
        noise = torch.randn(x0_BCTHW.shape, generator=draw).to(x0_BCTHW)
        text = network.encode_text(
            self.embeddings(batch["caption"], self.kept(len(x0_BCTHW), draw))
        )
        weight_B, timestep_B = self.grid.weight(timestep_B).to(x0_BCTHW), timestep_B.to(x0_BCTHW)
        x_t, target = flow_matching_target(x0_BCTHW, noise, timestep_B)
        return weighted_error(network(x_t, timestep_B, text), target, weight_B)


class DetailModule(AnchorModule):
    """Flow matching of the detail network given an anchor, then also self-consistency."""

    network: ShortcutDiT  # type: ignore[assignment]

    def __init__(self, config: TrainConfig, network: nn.Module, texts: TextTable) -> None:
        super().__init__(config, network, texts)
        steps = make_schedule(config.schedule, config.resolution.shift).steps
        self.inference = [(step.timestep, int(step.dt or 0)) for step in steps]

    def is_shortcut(self, draw: torch.Generator) -> bool:
        """Whether this step is one of self-consistency; never while only measuring the loss."""
        settings = self.config.objective.shortcut
        lucky = bool(torch.rand((), generator=draw) < settings.probability)
        return lucky and torch.is_grad_enabled() and self.progress >= settings.start

    def condition(self, anchor_BCTHW: Tensor, kept_B: Tensor, draw: torch.Generator) -> Tensor:
        """The anchor as the network gets it: 0 where dropped, in half of the steps with noise."""
        limit = self.config.objective.condition.noise
        level_B = torch.rand(len(anchor_BCTHW), generator=draw) * limit
        level_B = level_B * (torch.rand((), generator=draw) < 0.5)
        noise = torch.randn(anchor_BCTHW.shape, generator=draw)
        noisy = anchor_BCTHW + (noise * per_sample(level_B)).to(anchor_BCTHW)
        return noisy * per_sample(kept_B).to(noisy)

    def draw_shortcuts(self, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps and step sizes [B], by the reference's rule or of the inference schedule.

        Steps of the inference schedule are halved like the reference's, so that the halves which
        the targets are made of have been learnt too.
        """
        timestep_B, size_B = sample_shortcuts(count, self.grid, draw)
        bias = torch.exp(-INDEX_BIAS * torch.arange(SHORTCUT_HALVINGS))
        halvings = torch.multinomial(bias, count, replacement=True, generator=draw).tolist()
        picks = torch.randint(len(self.inference), (count,), generator=draw).tolist()
        chosen = torch.rand(count, generator=draw) < self.config.objective.shortcut.inference_share
        for row in chosen.nonzero().flatten().tolist():
            timestep, size = self.inference[picks[row]]
            timestep_B[row], size_B[row] = timestep, even_step(size // 2 ** halvings[row])
        return timestep_B, size_B

    def loss(self, network: Any, batch: Batch) -> Tensor:
        x0_BCTHW, draw = batch["latent"].float(), generator(self.config.seed, batch["step"])
        count, shortcut = len(x0_BCTHW), self.is_shortcut(draw)
        kept_B = self.kept(count, draw)
        text = network.encode_text(self.embeddings(batch["caption"], kept_B))
        anchor = self.condition(batch["condition"].float(), kept_B, draw)
        frames, height, width = x0_BCTHW.shape[2:]
        features = network.encode_anchor(anchor, (frames, height // PATCH, width // PATCH))
        noise = torch.randn(x0_BCTHW.shape, generator=draw).to(x0_BCTHW)

        def velocity(x: Tensor, timestep: Tensor, size: Tensor) -> Tensor:
            return network(x, timestep, text, size, features)

        if shortcut:
            times, sizes = self.draw_shortcuts(count, draw)
            weight = noise_span_weights(times, sizes, self.grid).to(x0_BCTHW)
            times, sizes = times.to(x0_BCTHW), sizes.to(x0_BCTHW)
            x_t, _ = flow_matching_target(x0_BCTHW, noise, times)
            target = self_consistency_target(velocity, x_t, times, sizes, self.grid)
        else:
            times = self.draw_times(count, draw)
            weight, times = self.grid.weight(times).to(x0_BCTHW), times.to(x0_BCTHW)
            sizes = torch.zeros_like(times)
            x_t, target = flow_matching_target(x0_BCTHW, noise, times)
        return weighted_error(velocity(x_t, times, sizes), target, weight)


class VAEModule(TrainingModule):
    """Reconstruction of crops: L1, MSE and gradients of the pixels, and a weak pull to N(0, 1).

    A decoder that is trained alone sees more noise than the encoder's posterior has, so that it
    forgives the errors of sampled latents.
    """

    network: WanVAE

    def __init__(self, config: TrainConfig, network: WanVAE) -> None:
        super().__init__(config, network)
        self.decoder_only = config.objective.decoder_only
        if self.decoder_only:
            network.encoder.requires_grad_(False)
            network.conv1.requires_grad_(False)

    def is_matrix(self, name: str, parameter: Tensor) -> bool:
        """Whether Muon takes a parameter: the convolutions, but the first and the last."""
        if name == "encoder.conv1.weight" or "head.2" in name or "gamma" in name:
            return False
        return parameter.ndim >= 4 and min(parameter.flatten(1).shape) >= 8

    def loss(self, network: Any, batch: Batch) -> Tensor:
        weights, video_BCTHW = self.config.objective.reconstruction, batch["video"].float()
        video_BCTHW = video_BCTHW / 127.5 - 1
        mean, logvar = network.moments(video_BCTHW)
        logvar = logvar.clamp(-12, 6)
        draw = generator(self.config.seed, batch["step"])
        noise = torch.randn(mean.shape, generator=draw).to(mean)
        if self.decoder_only:
            raised_B = MORE_NOISE * torch.rand(len(mean), generator=draw)
            logvar = logvar + per_sample(raised_B).to(logvar)
        error = network.reconstruct(mean + torch.exp(0.5 * logvar) * noise) - video_BCTHW
        columns = (error[..., 1:] - error[..., :-1]).abs().mean()
        rows = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        loss = (
            error.abs().mean()
            + weights.mse * error.square().mean()
            + weights.gradient * (columns + rows)
        )
        if not self.decoder_only:
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
            loss = loss + weights.kl * kl
        return loss


def per_sample(values_B: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1, 1]."""
    return values_B.view(-1, 1, 1, 1, 1)


def weighted_error(prediction: Tensor, target: Tensor, weight_B: Tensor) -> Tensor:
    """Mean square error of a batch, each sample with its weight."""
    return (weight_B * (prediction.float() - target).square().flatten(1).mean(1)).mean()
