"""Trained weights exported as a complete backbone folder for ``generate``."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import atomic
from pixelwizard.models.checkpoints import CONFIG, FEW_STEP, NAMES, PARTS, TOKENIZER, weights_folder
from pixelwizard.models.wan.files import save_pickle
from pixelwizard.models.weights import write_statistics

CONTAINER = "model.pt"


def complete_backbone(
    config: TrainConfig,
    folder: Path,
    average: Any,
    last: Any,
    statistics: Sequence[list[float]] | None = None,
) -> None:
    """Add the backbone's other parts and the latent ``statistics`` to an export.

    With ``checkpoint.container`` the ``last`` weights and the average go into ``model.pt`` too.
    """
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
