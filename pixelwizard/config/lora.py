"""The settings of LoRAs: the files that are added to the networks, and how one is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, List, Literal, Optional

from pixelwizard.config.objective import RANDOM, STAGES, ObjectiveSettings
from pixelwizard.config.schema import ConfigError, build, check_kind, setting


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


@dataclass(frozen=True)
class AdapterSettings:
    """A LoRA that is trained in place of the network, whose own weights stay as they are.

    ``targets`` are the linears of the blocks that get one, by the ends of their names. Its output
    is scaled by ``alpha`` / ``rank`` (None: 1). The network is kept in ``backbone.dtype``, the LoRA
    in float32; AdamW trains it, at ``optimizer.lr``.
    """

    kind: Literal["none", "lora"] = "none"
    rank: int = setting(16, low=1, only_for=("lora",))
    alpha: Optional[float] = setting(None, low=1e-6, only_for=("lora",))
    targets: List[str] = setting(["q", "k", "v", "o", "ffn.0", "ffn.2"], only_for=("lora",))

    def check(self, key: str) -> None:
        """No settings of a LoRA without one; raises ConfigError."""
        check_kind(self, key, self.kind)

    @property
    def used(self) -> bool:
        """Whether a LoRA is trained."""
        return self.kind == "lora"

    @property
    def factor(self) -> float:
        """What the output of the low-rank pair is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def check_adapter(
    adapter: AdapterSettings, part: str, objective: ObjectiveSettings, container: bool
) -> None:
    """Refuse a LoRA of a network that cannot have one, or without weights under it.

    ``container`` asks for an export that a LoRA does not have. Raises ConfigError.
    """
    if not adapter.used:
        return
    if part not in STAGES:
        raise ConfigError(f"adapter=lora is for the anchor and the detail network, not for {part}")
    if objective.kind in ("dmd", "progressive"):
        raise ConfigError(
            f"adapter=lora is not possible with objective={objective.kind}, which copies the whole"
            " student into its other networks; use objective=flow_map or consistency"
        )
    if objective.init_from == RANDOM:
        raise ConfigError(
            f"adapter=lora adapts a trained network, and objective.init_from={RANDOM} has none;"
            " give a file, or leave it out"
        )
    if container:
        raise ConfigError(
            "checkpoint.container=true exports whole networks, and adapter=lora trains none; leave"
            " it out"
        )
    if not adapter.targets:
        raise ConfigError("adapter.targets=[] leaves nothing to train; name ends like [q,k,v,o]")
