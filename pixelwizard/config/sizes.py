"""Sizes of the backbone's networks, the published ones as defaults; part of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

from pixelwizard.config.schema import ConfigError
from pixelwizard.config.setting import setting


@dataclass(frozen=True)
class DiTSizes:
    """Sizes of the diffusion transformer, named as in the official ``config.json``."""

    in_dim: int = setting(48, low=1)
    out_dim: int = setting(48, low=1)
    dim: int = setting(3072, low=1)
    ffn_dim: int = setting(14336, low=1)
    freq_dim: int = setting(256, low=1)
    text_dim: int = setting(4096, low=1)
    text_len: int = setting(512, low=1)
    num_heads: int = setting(24, low=1)
    num_layers: int = setting(30, low=1)
    eps: float = setting(1e-6, low=0.0)


@dataclass(frozen=True)
class VAESizes:
    """Sizes of the causal video autoencoder; ``latent_mean``, ``latent_std``: ``z_dim`` entries."""

    z_dim: int = setting(48, low=1)
    dim: int = setting(160, low=1)
    dec_dim: int = setting(256, low=1)
    dim_mult: List[int] = setting([1, 2, 4, 4], low=1)
    num_res_blocks: int = setting(2, low=1)
    temporal_downsample: List[bool] = setting([False, True, True])
    latent_mean: List[float] = setting([])
    latent_std: List[float] = setting([])

    def check(self, key: str) -> None:
        """Statistics of every channel or none, deviations above 0; raises ConfigError."""
        if not self.latent_mean and not self.latent_std:
            return
        for name in ("latent_mean", "latent_std"):
            if (count := len(getattr(self, name))) != self.z_dim:
                raise ConfigError(
                    f"{key}.{name} has {count} numbers, and the latent {self.z_dim} channels; give"
                    " one each"
                )
        if min(self.latent_std) <= 0:
            raise ConfigError(f"{key}.latent_std={min(self.latent_std)} must be above 0")


@dataclass(frozen=True)
class TextSizes:
    """Sizes of the UMT5 text encoder, named as in the official code."""

    vocab_size: int = setting(256384, low=1)
    dim: int = setting(4096, low=1)
    dim_attn: int = setting(4096, low=1)
    dim_ffn: int = setting(10240, low=1)
    num_heads: int = setting(64, low=1)
    num_layers: int = setting(24, low=1)
    num_buckets: int = setting(32, low=1)
