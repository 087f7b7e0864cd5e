"""The settings of a backbone: where its weights are and how large its networks are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import List, Literal, Optional

from pixelwizard.config.schema import ConfigError, check_range
from pixelwizard.config.setting import setting
from pixelwizard.config.sizes import DiTSizes, TextSizes, VAESizes
from pixelwizard.config.targets import Part, door

DETAIL_NETWORK = "pixelwizard.models.shortcut.network.ShortcutDiT"


@dataclass(frozen=True)
class BackboneSettings:
    """One backbone: where its weights are and how large its networks are.

    ``folder`` is laid out like the official release (``None``: the weights inside the package);
    ``anchor`` and ``detail`` are checkpoints of the two stages (``None``: the folder's own);
    ``ema``: whether a trainer's container gives its averaged weights (``auto``: if it has them).
    ``detail_network`` is a subclass of ShortcutDiT with another step-size conditioning or adapter.
    The two guidance scales are those of ``anchor`` and ``schedule`` where they set none.
    """

    name: str = setting("tiny", of_latents=True)
    folder: Optional[str] = setting(None, path=True)
    anchor: Optional[str] = setting(None, path=True)
    detail: Optional[str] = setting(None, path=True)
    ema: Literal["auto", "true", "false"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    negative_prompt: str = ""
    anchor_guidance: float = setting(5.0, low=0.0)
    detail_guidance: float = setting(5.0, low=0.0)
    dit: DiTSizes = setting(DiTSizes, of_latents=True)
    detail_layers: Optional[int] = setting(None, low=1)
    control_blocks: List[int] = setting([1])
    detail_network: Optional[Part] = setting(
        None, later=True, **door(DETAIL_NETWORK, given=("sizes", "control_blocks"))
    )
    vae: VAESizes = setting(VAESizes, of_latents=True)
    text: TextSizes = setting(TextSizes, of_latents=True)

    @property
    def detail_dit(self) -> DiTSizes:
        """The sizes of the detail network: those of the anchor, but for its number of blocks."""
        return replace(self.dit, num_layers=self.detail_layers or self.dit.num_layers)

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
