"""The settings of pixelwizard: one typed definition that is both the Hydra schema and the runtime value.

Nothing here imports torch or hydra, so that configurations are composed and refused in well under a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional


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
    """Sizes of the causal video autoencoder; ``latent_mean`` and ``latent_std`` have ``z_dim`` entries."""

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


@dataclass(frozen=True)
class BackboneSettings:
    """One backbone: where its weights are and how large its networks are."""

    name: str = "tiny"
    folder: Optional[str] = None
    dit: DiTSizes = field(default_factory=DiTSizes)
    control_blocks: List[int] = field(default_factory=lambda: [1])
    vae: VAESizes = field(default_factory=VAESizes)
    text: TextSizes = field(default_factory=TextSizes)


@dataclass(frozen=True)
class SamplerSettings:
    """How one stage integrates its velocity field from noise to latent.

    ``timesteps`` (1000 = noise, strictly decreasing) replaces the ``steps`` and the ``shift`` of the
    solver's own grid. ``shift=None`` takes the shift of the resolution. ``guided_steps`` are the
    0-based steps that run classifier-free guidance (``None``: all of them). ``step_sizes`` is what
    the network is told about the length of each step: ``none``, ``raw`` or ``snapped`` to the
    step sizes it was trained with.
    """

    solver: str = "unipc"
    steps: int = 50
    timesteps: Optional[List[float]] = None
    shift: Optional[float] = None
    guidance: float = 5.0
    guided_steps: Optional[List[int]] = None
    step_sizes: str = "none"


@dataclass(frozen=True)
class VideoSettings:
    """How videos are written: ``crf`` is x264's and x265's quality, ignored by the lossless ffv1."""

    fps: int = 24
    codec: str = "h264"
    crf: int = 12


@dataclass(frozen=True)
class StoreSettings:
    """Where the stages' results are kept between runs."""

    dir: str = "outputs/store"


@dataclass(frozen=True)
class TrackerSettings:
    """What records a run: ``kind`` is wandb, csv or none; ``mode`` is W&B's (offline, online)."""

    kind: str = "wandb"
    project: str = "pixelwizard"
    mode: str = "offline"
