"""Trained weights exported: a complete backbone folder for ``generate``, or a LoRA."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import atomic
from pixelwizard.models.checkpoints import CONFIG, FEW_STEP, NAMES, PARTS, TOKENIZER, weights_folder
from pixelwizard.models.lora.merge import STAGE
from pixelwizard.models.wan.files import save, save_pickle
from pixelwizard.models.weights import save_network, write_statistics
from pixelwizard.training.starts import base_digest

CONTAINER, ADAPTER = "model.pt", "lora.safetensors"
PREFIX = "diffusion_model."
"""In front of the names of a LoRA, as ComfyUI and diffusers read them."""


def export_backbone(
    config: TrainConfig,
    folder: Path,
    average: Any,
    last: Any,
    statistics: Sequence[list[float]] | None = None,
) -> None:
    """Write the average with the backbone's other parts and the latent ``statistics``.

    With ``checkpoint.container`` the ``last`` weights and the average go into ``model.pt`` too.
    """
    save_network(average, config.part, folder, torch.float32)
    if config.checkpoint.container:
        both = {"generator": last.state_dict(), "generator_ema": average.state_dict()}
        save_pickle(both, folder / CONTAINER)
    vae = config.backbone.vae
    mean, std = statistics or (vae.latent_mean, vae.latent_std)
    write_statistics(mean, std, folder)
    source = weights_folder(config.backbone)
    others = [name for part in PARTS if part != config.part for name in NAMES[part]]
    if config.part != "anchor":
        others.append(FEW_STEP)
    for name in (*others, CONFIG, TOKENIZER):
        if (source / name).exists() and not (folder / name).exists():
            copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
            with atomic(folder / name) as part:
                copy(source / name, part)


def export_adapter(weights: dict[str, Tensor], config: TrainConfig, folder: Path) -> None:
    """Write a LoRA that diffusers, ComfyUI and ``backbone.lora`` read, in float32.

    Its metadata say what it was trained for.
    """
    settings, end = config.adapter, ".lora_A.weight"
    metadata = {
        STAGE: config.part,
        "pixelwizard.base": base_digest(config),
        "rank": str(settings.rank),
        "alpha": str(settings.alpha or settings.rank),
    }
    named = {f"{PREFIX}{name}": tensor for name, tensor in weights.items()}
    if settings.alpha is not None:
        modules = (name.removesuffix(end) for name in weights if name.endswith(end))
        named |= {f"{PREFIX}{name}.alpha": torch.tensor(settings.alpha) for name in modules}
    save(named, folder / ADAPTER, torch.float32, metadata)
