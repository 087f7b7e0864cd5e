"""The detail network: the Wan transformer conditioned on step size and anchor."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn

from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.config.targets import Part, door_of
from pixelwizard.models.shortcut.spatial_adapter import SpatialAdapter
from pixelwizard.models.wan.dit import Grid, TextKeyValues, WanDiT, in_float32, sinusoid, time_mlp

DOOR = door_of(BackboneSettings, "detail_network")


class StepEmbedding(nn.Sequential):
    """Sinusoid of dt -> Linear, SiLU, Linear; the last layer starts at zero.

    Its output is added to the time embedding before the projection, so blocks and head see it.
    dt is in timesteps (1000 = the whole path).
    """

    def __init__(self, freq_dim: int, dim: int) -> None:
        super().__init__(*time_mlp(freq_dim, dim))

    def reset_parameters(self) -> None:
        """As the time embedding, with a last layer of zero."""
        nn.init.normal_(self[0].weight, std=0.02)
        nn.init.zeros_(self[0].bias)
        nn.init.zeros_(self[2].weight)
        nn.init.zeros_(self[2].bias)

    def forward(self, step_size_B: Tensor) -> Tensor:
        """Step sizes [B] -> float32 [B, E]."""
        return in_float32(self, sinusoid(step_size_B, self[0].in_features))


class ShortcutDiT(WanDiT):
    """Wan plus two additions that start at zero: at initialisation it equals Wan bit for bit.

    A subclass may replace ``dt_embedding`` (step sizes [B] -> float32 [B, E]) or
    ``spatial_adapter``, under any names of weights.

    ``features_on_host`` keeps the features of the anchor in host memory; a block fetches those of
    the tokens that it is at.
    """

    entrances = (*WanDiT.entrances, "encode_anchor")

    def __init__(self, sizes: DiTSizes, control_blocks: Sequence[int]) -> None:
        for block in control_blocks:
            if not 0 <= block < sizes.num_layers:
                raise ValueError(
                    f"control_blocks contains {block}, but the network has {sizes.num_layers} "
                    f"blocks; use 0..{sizes.num_layers - 1}"
                )
        super().__init__(sizes)
        self.dt_embedding = StepEmbedding(sizes.freq_dim, sizes.dim)
        self.spatial_adapter = SpatialAdapter(sizes, control_blocks)
        self.features_on_host = False
        self.dt_embedding.reset_parameters()
        self.spatial_adapter.reset_parameters()

    def encode_anchor(self, anchor_BCTHW: Tensor, token_grid: Grid) -> Tensor:
        """Features of an anchor latent on this rank's tokens of the detail latent, once a clip."""
        place = torch.device("cpu") if self.features_on_host else None
        own = self.own_tokens(token_grid)
        return self.spatial_adapter.encode(anchor_BCTHW, token_grid, self.chunk, place, own)

    def forward(
        self,
        latent_BCTHW: Tensor,
        timestep_B: Tensor,
        text: TextKeyValues,
        step_size_B: Tensor | None = None,
        anchor_features: Tensor | None = None,
    ) -> Tensor:
        """Velocity, float32 [B, C, T, H, W].

        ``step_size`` in timesteps, one per sample; ``None`` is 0, the instantaneous velocity.
        ``anchor_features`` from ``encode_anchor``; ``None`` leaves the adapter out.
        """
        if step_size_B is None:
            step_size_B = torch.zeros_like(timestep_B)
        time = self.embed_time(timestep_B) + self.dt_embedding(step_size_B)
        additions = None
        if anchor_features is not None:
            additions = self.spatial_adapter(anchor_features, timestep_B, step_size_B)
        return self.denoise(latent_BCTHW, time, text, additions)


def make_detail(part: Part | None, sizes: DiTSizes, control_blocks: Sequence[int]) -> ShortcutDiT:
    """A detail network with random weights: ShortcutDiT itself (None), or the user's class."""
    if part is None:
        return ShortcutDiT(sizes, control_blocks)
    made: ShortcutDiT = DOOR.make(
        part, "backbone.detail_network", sizes=sizes, control_blocks=control_blocks
    )
    return made
