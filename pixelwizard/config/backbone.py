"""The settings of a backbone: sizes of its networks, where its weights are, fetch, convert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, List, Literal, Optional

from pixelwizard.config.schema import ConfigError, build, check_range, setting
from pixelwizard.config.targets import Door, Part


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


@dataclass(frozen=True)
class LoRASettings:
    """A file of low-rank weights, added ``scale`` times to the network of a ``stage``.

    As a value it is the file alone, or a node: ``{file: FILE, scale: 0.8, stage: detail}``.
    """

    file: str
    scale: float = 1.0
    stage: Literal["anchor", "detail"] = "anchor"

    @classmethod
    def from_plain(cls, value: Any, key: str) -> LoRASettings:
        """The settings of a file or a node, its path made absolute. Raises ConfigError."""
        node = value if isinstance(value, Mapping) else {"file": value}
        made = build(cls, node, key)
        if not made.file.strip():
            raise ConfigError(f"{key}.file is empty; name a file with a LoRA")
        if not math.isfinite(made.scale):
            raise ConfigError(f"{key}.scale={made.scale} must be a number, like 1.0")
        return replace(made, file=str(Path.cwd() / Path(made.file).expanduser()))


DETAIL_NETWORK = "pixelwizard.models.shortcut.network.ShortcutDiT"


@dataclass(frozen=True)
class BackboneSettings:
    """One backbone: where its weights are and how large its networks are.

    ``folder`` is laid out like the official release (``None``: the weights inside the package);
    ``anchor``, ``detail``, ``vae_file`` (on the command line also ``vae``) and ``text_encoder`` are
    files with the weights of a part, in any known format (``None``: the folder's own);
    ``lora``: files of low-rank weights that are added to the two stages' networks;
    ``ema``: whether a training checkpoint gives its EMA weights (``auto``: if it has them).
    ``detail_network`` is a subclass of ShortcutDiT with another step-size conditioning or adapter.
    ``quantize``: the linears of both transformers' blocks in 8 bits, and those of the text
    encoder's in int8 (None: in ``dtype``).
    ``few_step``: the folder's few-step anchor network, if it has one, samples the anchor; it also
    does if ``anchor`` has step sizes.
    The two guidance scales apply to ``anchor`` and ``schedule`` if these set none.
    """

    name: str = setting("tiny", of_latents=True)
    folder: Optional[str] = setting(None, path=True)
    anchor: Optional[str] = setting(None, path=True)
    detail: Optional[str] = setting(None, path=True)
    vae_file: Optional[str] = setting(None, path=True)
    text_encoder: Optional[str] = setting(None, path=True)
    lora: List[LoRASettings] = setting([])
    ema: Literal["auto", "true", "false"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantize: Optional[Literal["fp8", "int8"]] = setting(None, later=True)
    few_step: bool = setting(False, later=True)
    negative_prompt: str = ""
    anchor_guidance: float = setting(5.0, low=0.0)
    detail_guidance: float = setting(5.0, low=0.0)
    dit: DiTSizes = setting(DiTSizes, of_latents=True)
    detail_layers: Optional[int] = setting(None, low=1)
    control_blocks: List[int] = setting([1])
    detail_network: Optional[Part] = setting(
        None, later=True, door=Door(DETAIL_NETWORK, given=("sizes", "control_blocks"))
    )
    vae: VAESizes = setting(VAESizes, of_latents=True)
    text: TextSizes = setting(TextSizes, of_latents=True)

    @property
    def detail_dit(self) -> DiTSizes:
        """The sizes of the detail network: those of the anchor, but for its number of blocks."""
        return replace(self.dit, num_layers=self.detail_layers or self.dit.num_layers)

    @property
    def quantize_text(self) -> str | None:
        """The 8 bits of the text encoder: int8, as transformers' UMT5 rounds inputs to fp8 too."""
        return None if self.quantize is None else "int8"

    def refuse_quantised(self, task: str) -> None:
        """Refuse weights of 8 bits where they have no meaning; raises ConfigError."""
        if self.quantize is not None:
            raise ConfigError(
                f"backbone.quantize={self.quantize} is for generate, plan and convert, which"
                f" change no weight; leave it out of {task}"
            )

    def check(self, key: str) -> None:
        """Networks whose sizes fit each other; raises ConfigError."""
        heads, dim = self.dit.num_heads, self.dit.dim
        pair = 2 * heads
        if dim % pair:
            nearest = max(1, round(dim / pair)) * pair
            raise ConfigError(
                f"{key}.dit.dim={dim} must be an even multiple of {key}.dit.num_heads={heads};"
                f" nearest: {nearest}"
            )
        for block in self.control_blocks:
            check_range(f"{key}.control_blocks", block, 0, self.detail_dit.num_layers - 1)


@dataclass(frozen=True)
class SourceSettings:
    """Files of one repository of the Hugging Face hub, and the folder that they go to.

    ``revision`` is a commit (a name like ``main`` is resolved at the first fetch and kept);
    ``use`` says how to use the files, ``note`` what to know if one of them is missing.
    """

    name: str = ""
    repo: str = ""
    revision: str = "main"
    folder: str = setting("", path=True)
    files: List[str] = setting([])
    use: str = ""
    note: str = ""

    def check(self, key: str) -> None:
        """Refuse a source without files and files that would leave the folder."""
        for name in ("repo", "revision", "folder"):
            if not getattr(self, name):
                raise ConfigError(f"{key}.{name} is empty; name what to fetch, like source=NAME")
        if not self.files:
            raise ConfigError(f"{key}.files is empty; name at least one file")
        for file in self.files:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise ConfigError(
                    f"{key}.files has {file!r}, which is not a path inside the folder"
                )


@dataclass(frozen=True)
class FetchConfig:
    """Everything that determines one ``fetch``."""

    task: Literal["fetch"] = "fetch"
    source: SourceSettings = setting(SourceSettings)


@dataclass(frozen=True)
class ConvertConfig:
    """Everything that determines one ``convert``: the weights, the folder, the data type."""

    task: Literal["convert"] = "convert"
    backbone: BackboneSettings = setting(BackboneSettings)
    out: Optional[str] = setting(None, path=True)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
