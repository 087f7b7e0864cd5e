"""The detail network, conditioned on step size and anchor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch
from pixelwizard.diffusion.sampling import noise_like, per_sample
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.shortcut.network import ShortcutDiT, SpatialAdapter, make_detail
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.stages.latents import Detail
from pixelwizard.training.velocity import VelocityNetwork


class TrainedDetail(VelocityNetwork):
    """An objective without step sizes leaves their embedding as it starts."""

    network: ShortcutDiT

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not self.objective.uses_step_sizes:
            self.network.dt_embedding.requires_grad_(False)

    def make(self) -> ShortcutDiT:
        backbone, rule = self.config.backbone, self.config.objective.condition
        network = make_detail(backbone.detail_network, backbone.detail_dit, backbone.control_blocks)
        if isinstance(network.spatial_adapter, SpatialAdapter):
            for layer in network.spatial_adapter.zero_layers.values():
                nn.init.normal_(layer.weight, std=rule.adapter_init_std)
        if rule.pass_through:
            pass_through(network)
        return network

    def additions(self, network: nn.Module) -> set[str]:
        """The weights that Wan's network lacks: step embedding and adapter."""
        with torch.device("meta"):
            plain = WanDiT(self.config.backbone.detail_dit)
        return set(network.state_dict()) - set(plain.state_dict())

    def anchor_of(self, batch: Batch, kept_B: Tensor, own: torch.Generator) -> Tensor:
        """The anchor as the network gets it: 0 where dropped, with noise in a share of samples."""
        anchor_BCTHW = batch["condition"].float()
        rule, count = self.config.objective.condition, len(anchor_BCTHW)
        level_B = torch.rand(count, generator=own) * rule.noise
        level_B = level_B * (torch.rand(count, generator=own) < rule.noisy)
        noise = noise_like(anchor_BCTHW, own)
        noisy = anchor_BCTHW + noise * per_sample(level_B).to(anchor_BCTHW)
        return noisy * per_sample(kept_B).to(noisy)

    def sample(self, noise: Tensor, example: Batch) -> Tensor:
        sampler = self.config.schedule
        schedule = make_schedule(sampler, self.config.resolution.shift)
        stage = Detail(self.average, schedule, sampler.guidance)
        return stage(noise, example["condition"].float(), example["text"], example["empty"])


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
