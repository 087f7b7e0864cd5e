"""Sizes of the backbone's networks, the published ones as defaults; part of the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List


@dataclass(frozen=True)
class DiTSizes:
    """Sizes of the diffusion transformer, named as in the official ``config.json``."""

    in_dim: int = 48
    out_dim: int = 48
    dim: int = 3072
    ffn_dim: int = 14336
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    num_heads: int = 24
    num_layers: int = 30
    eps: float = 1e-6


@dataclass(frozen=True)
class VAESizes:
    """Sizes of the causal video autoencoder; ``latent_mean``, ``latent_std``: ``z_dim`` entries."""

    z_dim: int = 48
    dim: int = 160
    dec_dim: int = 256
    dim_mult: List[int] = field(default_factory=lambda: [1, 2, 4, 4])
    num_res_blocks: int = 2
    temporal_downsample: List[bool] = field(default_factory=lambda: [False, True, True])
    latent_mean: List[float] = field(default_factory=list)
    latent_std: List[float] = field(default_factory=list)


@dataclass(frozen=True)
class TextSizes:
    """Sizes of the UMT5 text encoder, named as in the official code."""

    vocab_size: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
