"""LoRA files added to the weights of a network as they are read.

W' = W + strength * alpha / r * up @ down, computed in float32 and rounded once. Without an alpha
the factor is 1, an alpha of 0 is r (kohya-ss); PEFT's configuration may give other alphas, and
alpha / sqrt(r) (rsLoRA, arXiv 2312.03732).

A name is a module's path, in some dialect and behind some prefix, and a role: which factor or
difference it is. Sources of the dialects: diffusers ``loaders/lora_conversion_utils.py``, ComfyUI
``comfy/lora.py`` and ``comfy/weight_adapter``, kohya-ss/musubi-tuner ``networks/lora.py``,
ModelTC/LightX2V ``utils/lora_loader.py``.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings, LoRASettings
from pixelwizard.config.schema import listed
from pixelwizard.models.checkpoints import lora_files
from pixelwizard.models.wan.files import LazyTensor, Weight, read_metadata, read_tensors
from pixelwizard.models.wan.layouts import diffusers_module, official_module

STAGE = "pixelwizard.stage"
"""The metadata that says which stage's network a file was trained for."""
PEFT = "lora_adapter_metadata"
_SHOWN = 3
_WIDTHS = {1536: "Wan2.1-1.3B", 3072: "Wan2.2-TI2V-5B", 5120: "Wan 14B"}

DOWN, UP, UP_BIAS, ALPHA = "down", "up", "up_bias", "alpha"
DIFFERENCES = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}
"""Roles that are whole differences, and the weight of the module that each belongs to."""

_ROLES = (
    (re.compile(r"\.lora_(?:A|down)(?:\.\w+)??(?:\.weight)?$"), DOWN),
    (re.compile(r"[._]lora\.down\.weight$"), DOWN),
    (re.compile(r"\.lora_(?:B|up)(?:\.\w+)??\.bias$"), UP_BIAS),
    (re.compile(r"\.lora_(?:B|up)(?:\.\w+)??(?:\.weight)?$"), UP),
    (re.compile(r"[._]lora\.up\.weight$"), UP),
    (re.compile(r"\.alpha$"), ALPHA),
    *((re.compile(rf"\.{role}$"), role) for role in DIFFERENCES),
)
_OTHERS = (
    (re.compile(r"dora_scale$|lora_magnitude_vector"), "DoRA"),
    (re.compile(r"\.hada_"), "LoHa"),
    (re.compile(r"\.lokr_"), "LoKr"),
    (re.compile(r"\.oft_|\.boft_"), "OFT"),
    (re.compile(r"\.lora_mid\."), "LoCon with a Tucker core"),
    (re.compile(r"\.reshape_weight$|\.set_weight$"), "a LoRA that replaces weights"),
    (re.compile(r"\.[wb]_norm$"), "LyCORIS of norms"),
)
"""Methods that are not read; their factors mean something else."""
_DOTTED = (
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer."),
    *("pipe.dit.", "dit.", "model."),
)
_UNDERSCORED = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")


def merged(
    backbone: BackboneSettings, stage: str, tensors: Mapping[str, Weight]
) -> dict[str, Weight]:
    """The weights of a stage's network with its LoRAs added, each computed as it is read.

    Raises ValueError for a file that is broken, of another method or of another network.
    """
    deltas: dict[str, list[LazyTensor]] = defaultdict(list)
    for lora in backbone.lora:
        if lora.stage == stage:
            for name, delta in read_lora(lora, tensors):
                deltas[name].append(delta)
    return {
        name: _sum(weight, deltas[name]) if name in deltas else weight
        for name, weight in tensors.items()
    }


def read_lora(
    lora: LoRASettings, weights: Mapping[str, Weight]
) -> Iterator[tuple[str, LazyTensor]]:
    """The differences of a file by the weights that they belong to; ValueError as ``merged``."""
    path, *sidecar = lora_files(lora)
    tensors, metadata = read_tensors(path), read_metadata(path)
    if method := _other_method(tensors):
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
        if weight is None or weight.shape != delta.shape:
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
        parts = _split(name)
        if parts is None or not isinstance(tensor, Tensor):
            unfit.append(name)
            continue
        module, role = _official(parts[0], known), parts[1]
        roles = modules.setdefault(module, _Module(module, parts[0])).roles
        if role in roles:
            raise ValueError(f"{path} has two {role} weights of {module}")
        roles[role] = tensor
    return modules, unfit


def _deltas(
    path: Path, lora: LoRASettings, module: _Module, config: _Peft
) -> Iterator[tuple[str, LazyTensor]]:
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
        yield f"{module.path}.weight", _low_rank(up, down, factor)
        if UP_BIAS in roles:
            yield f"{module.path}.bias", _difference(roles[UP_BIAS], factor)
    for role, weight in DIFFERENCES.items():
        if role in roles:
            yield f"{module.path}.{weight}", _difference(roles[role], lora.scale)


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


def _low_rank(up: Tensor, down: Tensor, factor: float) -> LazyTensor:
    """``factor`` * up [out, r] @ down [r, ...]; a convolution's kernel is in ``down``."""
    kernel = down.shape[1:]

    def rows(some: slice) -> Tensor:
        product = up[some].flatten(1).float() @ down.flatten(1).float()
        return (factor * product).view(-1, *kernel)

    return LazyTensor((up.shape[0], *kernel), rows)


def _difference(values: Tensor, factor: float) -> LazyTensor:
    """``factor`` * values: a difference of the whole weight."""
    return LazyTensor(values.shape, lambda some: factor * values[some].float())


def _sum(weight: Weight, deltas: list[LazyTensor]) -> Weight:
    def rows(some: slice) -> Tensor:
        total = weight[some].float()
        for delta in deltas:
            total = total + delta.rows(some)
        return total

    return LazyTensor(weight.shape, rows)


def _hint(found: list[tuple[str, LazyTensor]]) -> str:
    """Of which model a LoRA seems to be, from the width of its attention."""
    widths = (d.shape[-1] for name, d in found if name.endswith("self_attn.q.weight"))
    model = _WIDTHS.get(next(widths, 0))
    return f"; it seems to be of {model}" if model else ""


def _split(name: str) -> tuple[str, str] | None:
    """The module and the role of a weight's name; None if it has no role in a LoRA."""
    for pattern, role in _ROLES:
        if match := pattern.search(name):
            return name[: match.start()], role
    return None


def _other_method(names: Iterable[str]) -> str | None:
    """The method that a file uses in place of LoRA, by the first name that shows it."""
    return next(
        (method for name in names for pattern, method in _OTHERS if pattern.search(name)), None
    )


def _official(module: str, known: frozenset[str]) -> str:
    """The official path of a module; ``known`` are the network's. An unknown one stays as it is."""
    for prefix in _UNDERSCORED:
        if module.startswith(prefix):
            return _by_underscores(known).get(module.removeprefix(prefix), module)
    while prefix := next((p for p in _DOTTED if module.startswith(p)), ""):
        module = module.removeprefix(prefix)
    return official_module(module)


@cache
def _by_underscores(known: frozenset[str]) -> dict[str, str]:
    """Modules by their paths with underscores, in the names of both layouts.

    An underscore may be a dot or itself, so a path is never guessed from its name alone.
    """
    return {
        name.replace(".", "_"): module
        for module in sorted(known)
        for name in (module, diffusers_module(module))
    }
