"""LoRA files added to the weights of a network as they are read.

W' = W + strength * alpha / r * up @ down, computed in float32 and rounded once. Without an alpha
the factor is 1, an alpha of 0 is r (kohya-ss); PEFT's configuration may give other alphas, and
alpha / sqrt(r) (rsLoRA, arXiv 2312.03732).
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings, LoRASettings
from pixelwizard.config.schema import listed
from pixelwizard.models.checkpoints import lora_files
from pixelwizard.models.lora.names import (
    ALPHA,
    DIFFERENCES,
    DOWN,
    UP,
    UP_BIAS,
    official,
    other_method,
    split,
)
from pixelwizard.models.wan.files import LazyTensor, Weight, read_metadata, read_tensors

STAGE = "pixelwizard.stage"
"""The metadata that says which stage's network a file was trained for."""
PEFT = "lora_adapter_metadata"
_SHOWN = 3
_WIDTHS = {1536: "Wan2.1-1.3B", 3072: "Wan2.2-TI2V-5B", 5120: "Wan 14B"}


@dataclass(frozen=True)
class LowRank:
    """``factor`` * up [out, r] @ down [r, ...]; a convolution's kernel is in ``down``."""

    up: Tensor
    down: Tensor
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.up.shape[0], *self.down.shape[1:]

    def rows(self, some: slice) -> Tensor:
        """Some rows of the difference, float32."""
        up, down = self.up[some].flatten(1).float(), self.down.flatten(1).float()
        return (self.factor * (up @ down)).view(-1, *self.down.shape[1:])


@dataclass(frozen=True)
class Difference:
    """``factor`` * values: a difference of the whole weight."""

    values: Tensor
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def rows(self, some: slice) -> Tensor:
        """Some rows of the difference, float32."""
        return self.factor * self.values[some].float()


Delta = Union[LowRank, Difference]


def merged(
    backbone: BackboneSettings, stage: str, tensors: Mapping[str, Weight]
) -> dict[str, Weight]:
    """The weights of a stage's network with its LoRAs added, each computed as it is read.

    Raises ValueError for a file that is broken, of another method or of another network.
    """
    deltas: dict[str, list[Delta]] = defaultdict(list)
    for lora in backbone.lora:
        if lora.stage == stage:
            for name, delta in read_lora(lora, tensors):
                deltas[name].append(delta)
    return {
        name: _sum(weight, deltas[name]) if name in deltas else weight
        for name, weight in tensors.items()
    }


def read_lora(lora: LoRASettings, weights: Mapping[str, Weight]) -> Iterator[tuple[str, Delta]]:
    """The differences of a file by the weights that they belong to; ValueError as ``merged``."""
    path, *sidecar = lora_files(lora)
    tensors, metadata = read_tensors(path), read_metadata(path)
    if method := other_method(tensors):
        raise ValueError(f"{path} is {method}, which is not read; take or make a plain LoRA")
    trained_for = metadata.get(STAGE, lora.stage)
    if trained_for != lora.stage:
        raise ValueError(
            f"{path} was trained for the {trained_for} network; give it as"
            f" {{file: {path.name}, stage: {trained_for}}}"
        )
    modules, unfit = _modules(path, tensors, weights)
    if not modules:
        raise ValueError(
            f"{path} is not a LoRA: no name like {listed(unfit, 1)} is one of a LoRA's; a network"
            " is named by backbone.anchor or backbone.detail"
        )
    config = _Peft.read(metadata, sidecar)
    found = [pair for module in modules.values() for pair in _deltas(path, lora, module, config)]
    for name, delta in found:
        weight = weights.get(name)
        if weight is None or tuple(weight.shape) != delta.shape:
            its = "" if weight is None else f" of {list(weight.shape)}"
            unfit.append(f"{name} {list(delta.shape)}{its}")
    if unfit:
        raise ValueError(
            f"{path} does not fit the {lora.stage} network: {listed(unfit, _SHOWN)}{_hint(found)}"
        )
    yield from found


@dataclass
class _Module:
    """The tensors of a LoRA that belong to one module, by role; ``given``: its name in the file."""

    path: str
    given: str
    roles: dict[str, Tensor] = field(default_factory=dict)


def _modules(
    path: Path, tensors: Mapping[str, Any], weights: Mapping[str, Weight]
) -> tuple[dict[str, _Module], list[str]]:
    """The tensors of a file by module, and the names that belong to no role of a LoRA."""
    known = frozenset(name.rpartition(".")[0] for name in weights)
    modules: dict[str, _Module] = {}
    unfit = []
    for name, tensor in tensors.items():
        parts = split(name)
        if parts is None or not isinstance(tensor, Tensor):
            unfit.append(name)
            continue
        module, role = official(parts[0], known), parts[1]
        roles = modules.setdefault(module, _Module(module, parts[0])).roles
        if role in roles:
            raise ValueError(f"{path} has two {role} weights of {module}")
        roles[role] = tensor
    return modules, unfit


def _deltas(
    path: Path, lora: LoRASettings, module: _Module, config: _Peft
) -> Iterator[tuple[str, Delta]]:
    """The differences that one module's tensors make."""
    roles = module.roles
    if (DOWN in roles) != (UP in roles):
        there, missing = (DOWN, UP) if DOWN in roles else (UP, DOWN)
        raise ValueError(f"{path} has the {there} weight of {module.given}, but not the {missing}")
    if DOWN in roles:
        down, up = roles[DOWN], roles[UP]
        rank = down.shape[0]
        if up.ndim < 2 or down.ndim < 2 or up[0].numel() != rank:
            raise ValueError(
                f"{path} has factors of {module.given} that do not fit each other:"
                f" {list(up.shape)} and {list(down.shape)}"
            )
        alpha = float(roles[ALPHA]) if ALPHA in roles else None
        factor = lora.scale * config.factor(module.given, rank, alpha)
        yield f"{module.path}.weight", LowRank(up, down, factor)
        if UP_BIAS in roles:
            yield f"{module.path}.bias", Difference(roles[UP_BIAS], factor)
    for role, weight in DIFFERENCES.items():
        if role in roles:
            yield f"{module.path}.{weight}", Difference(roles[role], lora.scale)


@dataclass(frozen=True)
class _Peft:
    """What PEFT's configuration says about the factors; empty where a file has none."""

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    root: bool = False

    @classmethod
    def read(cls, metadata: Mapping[str, str], sidecar: list[Path]) -> _Peft:
        """From the file's metadata, else from ``adapter_config.json`` next to it."""
        text = metadata.get(PEFT) or next((file.read_text() for file in sidecar), "")
        if not text:
            return cls()
        try:
            given = json.loads(text)
            values = {name.removeprefix("transformer."): value for name, value in given.items()}
            alpha, alphas = values.get("lora_alpha"), values.get("alpha_pattern") or {}
            return cls(
                None if alpha is None else float(alpha),
                {name: float(value) for name, value in alphas.items()},
                bool(values.get("use_rslora")),
            )
        except (ValueError, TypeError, AttributeError):
            raise ValueError("the configuration of a LoRA by PEFT cannot be read") from None

    def factor(self, module: str, rank: int, alpha: float | None) -> float:
        """alpha / r of a module, or alpha / sqrt(r); ``alpha`` is the file's own."""
        patterns = (a for name, a in self.alphas.items() if re.search(rf"(^|\.)({name})$", module))
        alpha = next(patterns, self.alpha) if alpha is None else alpha
        if alpha is None:
            return 1.0
        return (alpha or rank) / (math.sqrt(rank) if self.root else rank)


def _sum(weight: Weight, deltas: list[Delta]) -> Weight:
    def rows(some: slice) -> Tensor:
        total = weight[some].float()
        for delta in deltas:
            total = total + delta.rows(some)
        return total

    return LazyTensor(weight.shape, rows)


def _hint(found: list[tuple[str, Delta]]) -> str:
    """Of which model a LoRA seems to be, from the width of its attention."""
    widths = (d.shape[-1] for name, d in found if name.endswith("self_attn.q.weight"))
    model = _WIDTHS.get(next(widths, 0))
    return f"; it seems to be of {model}" if model else ""
