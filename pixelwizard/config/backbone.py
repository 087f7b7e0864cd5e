"""The settings of a backbone: where its weights are and how large its networks are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import List, Literal, Optional

from pixelwizard.config.schema import ConfigError, check_range
from pixelwizard.config.sizes import DiTSizes, TextSizes, VAESizes


@dataclass(frozen=True)
class BackboneSettings:
    """One backbone: where its weights are and how large its networks are.

    ``folder`` is laid out like the official release (``None``: the weights inside the package);
    ``anchor`` and ``detail`` are checkpoints of the two stages (``None``: the folder's own);
    ``ema``: whether a trainer's container gives its averaged weights (``auto``: if it has them).
    The two guidance scales are those of ``anchor`` and ``schedule`` where they set none.
    """

    name: str = "tiny"
    folder: Optional[str] = None
    anchor: Optional[str] = None
    detail: Optional[str] = None
    ema: Literal["auto", "true", "false"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    negative_prompt: str = ""
    anchor_guidance: float = 5.0
    detail_guidance: float = 5.0
    dit: DiTSizes = field(default_factory=DiTSizes)
    detail_layers: Optional[int] = None
    control_blocks: List[int] = field(default_factory=lambda: [1])
    vae: VAESizes = field(default_factory=VAESizes)
    text: TextSizes = field(default_factory=TextSizes)

    @property
    def detail_dit(self) -> DiTSizes:
        """The sizes of the detail network: those of the anchor, but for its number of blocks."""
        return replace(self.dit, num_layers=self.detail_layers or self.dit.num_layers)


def check_backbone(backbone: BackboneSettings) -> None:
    """Networks whose sizes fit each other."""
    dit = backbone.dit
    pair = 2 * dit.num_heads
    if dit.dim < pair or dit.dim % pair:
        nearest = max(1, round(dit.dim / pair)) * pair
        raise ConfigError(
            f"backbone.dit.dim={dit.dim} must be an even multiple of"
            f" backbone.dit.num_heads={dit.num_heads}; nearest: {nearest}"
        )
    for block in backbone.control_blocks:
        check_range("backbone.control_blocks", block, 0, backbone.detail_dit.num_layers - 1)
