"""Names of LoRA weights in all their dialects -> official weight names of the transformer.

A name is a module's path, in some dialect and behind some prefix, and a role: which factor or
difference it is. Sources of the dialects: diffusers ``loaders/lora_conversion_utils.py``, ComfyUI
``comfy/lora.py`` and ``comfy/weight_adapter``, kohya-ss/musubi-tuner ``networks/lora.py``,
ModelTC/LightX2V ``utils/lora_loader.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from pixelwizard.models.wan.layouts import diffusers_module, official_module

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


def split(name: str) -> tuple[str, str] | None:
    """The module and the role of a weight's name; None if it has no role in a LoRA."""
    for pattern, role in _ROLES:
        if match := pattern.search(name):
            return name[: match.start()], role
    return None


def other_method(names: Iterable[str]) -> str | None:
    """The method that a file uses in place of LoRA, by the first name that shows it."""
    return next(
        (method for name in names for pattern, method in _OTHERS if pattern.search(name)), None
    )


def official(module: str, known: frozenset[str]) -> str:
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
