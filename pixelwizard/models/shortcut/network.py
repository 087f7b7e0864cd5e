"""The detail network: the Wan transformer conditioned on step size and anchor.

The convolutions of the spatial adapter see only the anchor (``encode``, once per clip). Time and
step size scale the channels of their features, and one zero-initialised linear per controlled
block projects the result, which is added to the tokens entering that block. Without gradients the
features are computed a few frames at a time, and the additions span by span as the block needs
them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.config.targets import Part, door_of
from pixelwizard.models.attention.base import Grid
from pixelwizard.models.wan.dit import (
    CHUNK,
    Addition,
    TextKeyValues,
    WanDiT,
    affine_norm,
    in_float32,
    sinusoid,
    spans,
    time_mlp,
)

GROUPS = 16


class SpatialAdapter(nn.Module):
    """Anchor latent -> one addition [B, L, E] per controlled block."""

    def __init__(self, sizes: DiTSizes, control_blocks: Sequence[int]) -> None:
        super().__init__()
        dim, quarter = sizes.dim, sizes.dim // 4
        self.freq_dim = sizes.freq_dim
        self.backbone = nn.Sequential(
            nn.Conv3d(sizes.in_dim, quarter, kernel_size=1),
            nn.GroupNorm(GROUPS, quarter),
            nn.SiLU(),
            nn.Conv3d(quarter, dim, kernel_size=3, padding=1),
            nn.SiLU(),
        )
        self.feature_norm = nn.LayerNorm(dim, eps=1e-6)
        self.adapter_time_proj = time_mlp(sizes.freq_dim, dim)
        self.adapter_dt_proj = time_mlp(sizes.freq_dim, dim)
        self.zero_layers = nn.ModuleDict({str(k): nn.Linear(dim, dim) for k in control_blocks})

    def reset_parameters(self) -> None:
        """Small time and step projections, additions of zero."""
        for projection in (self.adapter_time_proj, self.adapter_dt_proj):
            for layer in (projection[0], projection[2]):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        for layer in self.zero_layers.values():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(
        self,
        anchor_BCTHW: Tensor,
        token_grid: Grid,
        chunk: int = CHUNK,
        place: torch.device | None = None,
        own: slice | None = None,
    ) -> Tensor:
        """Features [B, L, E] of an anchor latent on a (T, H, W) grid of tokens.

        Without gradients about ``chunk`` tokens pass the large layers together. Only frames with
        some of the tokens ``own`` are computed (None: all). The features of these tokens are
        collected on the device ``place`` (None: the anchor's), in pinned memory for a GPU.
        Raises ValueError if the anchor has another number of latent frames than the grid.
        """
        frames, height, width = token_grid
        if anchor_BCTHW.shape[2] != frames:
            raise ValueError(
                f"the anchor has {anchor_BCTHW.shape[2]} latent frames, the detail has {frames}; "
                "both stages must make the same number of frames"
            )
        flat = anchor_BCTHW.transpose(1, 2).flatten(0, 1).float()
        flat = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
        resized = flat.unflatten(0, (-1, frames)).transpose(1, 2)
        dtype = self.backbone[0].weight.dtype
        narrow = self.backbone[2](self.backbone[1](self.backbone[0](resized.to(dtype))))
        narrow = F.pad(narrow, (0, 0, 0, 0, 1, 1))
        if torch.is_grad_enabled():
            return self._widen(narrow)
        area, own = height * width, own or slice(0, frames * height * width)
        first, last = own.start // area, -(-own.stop // area)
        shape = (len(narrow), own.stop - own.start, self.backbone[3].out_channels)
        place = place or narrow.device
        pinned = narrow.is_cuda and place.type == "cpu"
        features = torch.empty(shape, dtype=dtype, device=place, pin_memory=pinned)
        for span in spans(last - first, max(1, chunk // area)):
            start, stop = first + span.start, first + span.stop
            wide = self._widen(narrow[:, :, start : stop + 2])
            tokens = slice(max(start * area, own.start), min(stop * area, own.stop))
            features[:, tokens.start - own.start : tokens.stop - own.start].copy_(
                wide[:, tokens.start - start * area : tokens.stop - start * area]
            )
        return features

    def _widen(self, narrow: Tensor) -> Tensor:
        """Features [B, t * H * W, E] of t frames, given with the frames before and after them."""
        conv = self.backbone[3]
        wide = F.conv3d(narrow, conv.weight, conv.bias, padding=(0, 1, 1))
        features = self.backbone[4](wide).flatten(2).transpose(1, 2)
        return affine_norm(self.feature_norm, features).to(narrow.dtype)

    def forward(
        self, features_BLE: Tensor, timestep_B: Tensor, step_size_B: Tensor
    ) -> dict[int, Addition]:
        """Additions by block index, each computed for the tokens that are asked for."""
        time = in_float32(self.adapter_time_proj, sinusoid(timestep_B, self.freq_dim))
        step = in_float32(self.adapter_dt_proj, sinusoid(step_size_B, self.freq_dim))
        scale = (1 + torch.tanh(time + step).unsqueeze(1)).to(features_BLE.dtype)

        away = scale.is_cuda and not features_BLE.is_cuda

        def addition(layer: nn.Module) -> Addition:
            rows = Fetched(features_BLE, scale.device, asynchronous=away)
            return lambda span: layer(rows(span) * scale)

        return {int(k): addition(layer) for k, layer in self.zero_layers.items()}


class Fetched:
    """The anchor's features [B, L, E], fetched a span at a time from where they are kept.

    ``asynchronous``: they are in pinned host memory, and while a span of tokens is used on
    ``device`` the next one of that length is copied on a separate stream (CUDA). Elsewhere a span
    is copied when it is asked for, or is a view.
    """

    def __init__(self, features_BLE: Tensor, device: torch.device, asynchronous: bool) -> None:
        self.features, self.device = features_BLE, device
        self._copies = torch.cuda.Stream(device) if asynchronous else None
        self._ahead: tuple[slice, Tensor] | None = None

    def __call__(self, span: slice) -> Tensor:
        """The features of a span, [B, span, E]."""
        if self._copies is None:
            return self.features[:, span].to(self.device)
        known = self._ahead is not None and self._ahead[0] == span
        rows = self._ahead[1] if self._ahead and known else self._sent(span)
        torch.cuda.current_stream(self.device).wait_stream(self._copies)
        stop = min(2 * span.stop - span.start, self.features.shape[1])
        after = slice(span.stop, stop)
        self._ahead = (after, self._sent(after)) if span.stop < stop else None
        return rows

    def _sent(self, span: slice) -> Tensor:
        """Rows on the device whose copy is under way; its memory is free for it by then."""
        assert self._copies is not None
        rows = torch.empty_like(self.features[:, span], device=self.device)
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            rows.copy_(self.features[:, span], non_blocking=True)
        rows.record_stream(self._copies)  # a copy that nobody waits for keeps its memory
        return rows


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


class SteppedAnchor(WanDiT, ABC):
    """Wan conditioned on the step size: an anchor network of few steps."""

    takes_step_size = True

    def forward(
        self,
        latent_BCTHW: Tensor,
        timestep: Tensor,
        text: TextKeyValues,
        step_size: Tensor | None = None,
    ) -> Tensor:
        """Velocity, float32 [B, C, T, H, W].

        ``step_size`` in timesteps, shaped like ``timestep``; ``None`` is 0.
        """
        if step_size is None:
            step_size = torch.zeros_like(timestep)
        return self.denoise(latent_BCTHW, self.embed_step(timestep, step_size), text)

    @abstractmethod
    def embed_step(self, timestep: Tensor, step_size: Tensor) -> Tensor:
        """What replaces the time embedding, float32: [B] -> [B, E], [B, 2] -> [B, 2, E]."""


class SteppedDiT(SteppedAnchor):
    """The time embedding plus an embedding of the step size: this project's own.

    At initialisation it equals Wan bit for bit.
    """

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__(sizes)
        self.dt_embedding = StepEmbedding(sizes.freq_dim, sizes.dim)
        self.dt_embedding.reset_parameters()

    def embed_step(self, timestep: Tensor, step_size: Tensor) -> Tensor:
        steps = self.dt_embedding(step_size.flatten()).unflatten(0, step_size.shape)
        return self.embed_time(timestep) + steps


class AnyFlowDiT(SteppedAnchor):
    """AnyFlow's conditioning: a mixture of the embeddings of where a step starts and ends.

    e = (1 - g) time(t) + g delta(t - dt) with g = 0.25 (arXiv 2605.13724; NVlabs/AnyFlow
    ``transformer_far_wan_model.py``, ``deltatime_type`` r, Apache-2.0).
    """

    gate = 0.25

    def __init__(self, sizes: DiTSizes) -> None:
        super().__init__(sizes)
        self.delta_embedding = time_mlp(sizes.freq_dim, sizes.dim)

    def embed_step(self, timestep: Tensor, step_size: Tensor) -> Tensor:
        ends = sinusoid((timestep - step_size).flatten(), self.sizes.freq_dim)
        delta = in_float32(self.delta_embedding, ends).unflatten(0, step_size.shape)
        return (1 - self.gate) * self.embed_time(timestep) + self.gate * delta


class ShortcutDiT(WanDiT):
    """Wan plus two additions that start at zero: at initialisation it equals Wan bit for bit.

    A subclass may replace ``dt_embedding`` (step sizes [B] -> float32 [B, E]) or
    ``spatial_adapter``, under any names of weights.

    ``features_on_host`` keeps the features of the anchor in host memory; a block fetches those of
    the tokens that it is at.
    """

    entrances = (*WanDiT.entrances, "encode_anchor")
    takes_step_size = True

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
        timestep: Tensor,
        text: TextKeyValues,
        step_size: Tensor | None = None,
        anchor_features: Tensor | None = None,
    ) -> Tensor:
        """Velocity, float32 [B, C, T, H, W].

        ``step_size`` in timesteps, shaped like ``timestep``; ``None`` is 0, the instantaneous
        velocity. ``anchor_features`` from ``encode_anchor``; ``None`` leaves the adapter out.
        """
        if step_size is None:
            step_size = torch.zeros_like(timestep)
        steps = self.dt_embedding(step_size.flatten()).unflatten(0, step_size.shape)
        additions = []
        if anchor_features is not None:
            times = zip(by_time(timestep), by_time(step_size), strict=True)
            additions = [self.spatial_adapter(anchor_features, *time_B) for time_B in times]
        return self.denoise(latent_BCTHW, self.embed_time(timestep) + steps, text, additions)


def by_time(values: Tensor) -> tuple[Tensor, ...]:
    """[B] or [B, R] -> R of [B]."""
    return values.view(len(values), -1).unbind(1)


def make_detail(part: Part | None, sizes: DiTSizes, control_blocks: Sequence[int]) -> ShortcutDiT:
    """A detail network with random weights: ShortcutDiT itself (None), or the user's class."""
    if part is None:
        return ShortcutDiT(sizes, control_blocks)
    key = "backbone.detail_network"
    return DOOR.make(part, key, sizes=sizes, control_blocks=control_blocks)
