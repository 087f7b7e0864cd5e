"""The detail network: the Wan transformer conditioned on step size and anchor."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.sizes import DiTSizes
from pixelwizard.config.targets import Part, door_of
from pixelwizard.models.shortcut.spatial_adapter import SpatialAdapter
from pixelwizard.models.shortcut.step_embedding import StepEmbedding
from pixelwizard.models.wan.dit import Grid, TextKeyValues, WanDiT

DOOR = door_of(BackboneSettings, "detail_network")


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
