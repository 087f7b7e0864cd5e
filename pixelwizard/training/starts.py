"""What a training starts from: the network of the trained part, in its Lightning module."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pixelwizard.config.objective import STAGES
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.encoding import Encoding
from pixelwizard.evaluation.tiny import VideoEncoder, new_clip
from pixelwizard.models.checkpoints import find_weights
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.files import read_tensors, unwrap
from pixelwizard.models.wan.layouts import official_dit
from pixelwizard.models.wan.vae import AttentionBlock, ResidualBlock, WanVAE
from pixelwizard.training.autoencoder import VAEModule
from pixelwizard.training.encoders import CLIPModule, VideoEncoderModule
from pixelwizard.training.modules import TrainingModule
from pixelwizard.training.velocity import DetailModule, VelocityModule


def make_module(config: TrainConfig) -> TrainingModule:
    """The objective's network at its start, in its Lightning module."""
    kind, backbone = config.part, config.backbone
    if kind == "video_encoder":
        return VideoEncoderModule(config, started_from(VideoEncoder(), config))
    if kind == "clip_encoder":
        return CLIPModule(config, started_from(new_clip(), config))
    if kind == "vae":
        vae = WanVAE(backbone.vae)
        zero_residuals(vae)
        return VAEModule(config, started_from(vae, config))
    encoding = Encoding(backbone)
    if kind == "anchor":
        return VelocityModule(config, started_from(WanDiT(backbone.dit), config), encoding)
    detail = ShortcutDiT(backbone.detail_dit, backbone.control_blocks)
    for layer in detail.spatial_adapter.zero_layers.values():
        nn.init.normal_(layer.weight, std=config.objective.condition.adapter_init_std)
    if config.objective.condition.pass_through:
        pass_through(detail)
    return DetailModule(config, started_from(detail, config), encoding)


def zero_residuals(vae: WanVAE) -> None:
    """Let every residual branch start at zero."""
    for module in vae.modules():
        if isinstance(module, (ResidualBlock, AttentionBlock)):
            last = module.residual[6] if isinstance(module, ResidualBlock) else module.proj
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


@torch.no_grad()
def pass_through(network: WanDiT) -> None:
    """Start the network near v = x_t: orthonormal patch embedding, its transpose as the head.

    The norm before the head divides tokens by their deviation, about 1 here for a latent of unit
    variance.
    """
    weight = network.patch_embedding.weight  # [E, C, 1, patch_h, patch_w]
    dim, inputs = weight.shape[0], weight[0].numel()
    basis = nn.init.orthogonal_(torch.empty(dim, inputs))
    weight.copy_(((dim / inputs) ** 0.5 * basis).view_as(weight))
    head = basis.view_as(weight).permute(2, 3, 4, 1, 0).reshape(inputs, dim)
    network.head.head.weight.copy_((inputs / dim) ** 0.5 * head)


def started_from(network: nn.Module, config: TrainConfig) -> nn.Module:
    """The network with those tensors of ``objective.init_from`` that fit it by name and shape.

    A training of the decoder alone starts from the backbone's own autoencoder unless told
    otherwise. Raises ValueError if the file is not there or nothing in it fits.
    """
    path = config.objective.init_from
    if path is None and config.objective.decoder_only:
        path = str(find_weights(config.backbone, "vae"))
    if path is None:
        return network
    if not Path(path).is_file():
        raise ValueError(f"objective.init_from={path} is no file; give one with weights")
    own: dict[str, Tensor] = network.state_dict()
    given = unwrap(read_tensors(Path(path)), Path(path))
    if config.part in STAGES:
        given = official_dit(given)
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ValueError(f"objective.init_from={path} has no tensor that fits this network")
    network.load_state_dict({**own, **fitting})
    return network
