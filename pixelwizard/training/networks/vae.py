"""The training of the autoencoder, or of its decoder alone, on crops of clips."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch
from pixelwizard.data.crops import CropBatches, held_out_crops, latent_statistics
from pixelwizard.diffusion.sampling import keyed_generator, noise_like, per_sample
from pixelwizard.models.checkpoints import find_weights
from pixelwizard.models.wan.files import Weight, open_weights
from pixelwizard.models.wan.layouts import official_vae
from pixelwizard.models.wan.vae import AttentionBlock, ResidualBlock, WanVAE
from pixelwizard.records.run_folder import WorkStopped
from pixelwizard.training.data import Examples
from pixelwizard.training.exports import export_backbone
from pixelwizard.training.networks.base import TrainedNetwork

MORE_NOISE = 2.2
"""Most that is added to the posterior's log-variance for a decoder alone: 3 times its deviation."""
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""The layout of the weights of two- and three-dimensional convolutions."""


class TrainedVAE(TrainedNetwork):
    """Reconstruction of crops: L1, MSE and gradients of the pixels, and a weak pull to N(0, 1).

    A decoder that is trained alone sees more noise than the encoder's posterior has, so that it
    forgives the errors of sampled latents.
    """

    network: WanVAE

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.decoder_only = config.objective.reconstruction.decoder_only
        if self.decoder_only:
            self.network.encoder.requires_grad_(False)
            self.network.conv1.requires_grad_(False)

    def make(self) -> WanVAE:
        """Every residual branch starts at zero."""
        vae = WanVAE(self.config.backbone.vae)
        for module in vae.modules():
            if isinstance(module, (ResidualBlock, AttentionBlock)):
                last = module.residual[6] if isinstance(module, ResidualBlock) else module.proj
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        return vae

    def default_start(self) -> Path:
        return find_weights(self.config.backbone, "vae")

    def weights_of(self, path: Path) -> Mapping[str, Weight]:
        return official_vae(open_weights(path, "vae"), self.config.backbone.vae.num_res_blocks)

    def open_data(self) -> Examples:
        config = self.config
        return Examples(
            f"shapes for {config.part}",
            lambda first, rank, ranks: CropBatches(config, first),
            held_out_crops(config),
            config.data.workers,
        )

    def on_fit_start(self) -> None:
        """On a GPU use the channels-last layout for weights, and so for activations.

        A step takes 55 instead of 80 ms there (H200).
        """
        if self.device.type == "cuda":
            for parameter in (*self.network.parameters(), *self.average.parameters()):
                if parameter.ndim in CHANNELS_LAST:
                    layout = CHANNELS_LAST[parameter.ndim]
                    parameter.data = parameter.data.contiguous(memory_format=layout)

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
        draw = keyed_generator(self.config.seed, batch["step"])
        noise = noise_like(mean, draw)
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

    def export(self, folder: Path, average: Any, last: Any) -> None:
        """Export the autoencoder with its latent statistics; raises WorkStopped without any."""
        mean, std = statistics = latent_statistics(average, self.config.resolution)
        if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise WorkStopped(
                "the autoencoder cannot be exported: a channel of its latents is constant or not"
                " finite; the export before stays, try a lower optimizer.lr"
            )
        export_backbone(self.config, folder, average, last, statistics)
