"""Trained weights as what ``generate`` reads: a backbone's folder, the reference's container."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from pixelwizard.config.objective import ENCODERS
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.statistics import latent_statistics
from pixelwizard.evaluation.tiny import save_clip, save_video_encoder
from pixelwizard.models.checkpoints import CONFIG, NAMES, PARTS, TOKENIZER, weights_folder
from pixelwizard.models.shortcut.weights import save_detail
from pixelwizard.models.wan.files import save_pickle
from pixelwizard.models.wan.weights import save_anchor, save_vae, write_statistics

CONTAINER = "model.pt"


def export(config: TrainConfig, folder: Path, average: Any, last: Any) -> None:
    """Write the averaged network into a backbone's folder, with the backbone's other parts.

    With ``checkpoint.container`` the ``last`` weights and the average go into ``model.pt`` too.
    With the autoencoder go the statistics of its latents, which whoever takes the folder takes too.
    """
    kind, vae = config.part, config.backbone.vae
    mean, std = vae.latent_mean, vae.latent_std
    if config.part in ENCODERS:
        (save_clip if kind == "clip_encoder" else save_video_encoder)(average, folder)
        return
    if kind == "vae":
        save_vae(average, folder, torch.float32)
        mean, std = latent_statistics(average, config.resolution)
    elif kind == "anchor":
        save_anchor(average, folder, torch.float32)
    else:
        save_detail(average, folder, torch.float32)
    if config.checkpoint.container:
        both = {"generator": last.state_dict(), "generator_ema": average.state_dict()}
        save_pickle(both, folder / CONTAINER)
    write_statistics(mean, std, folder)
    source = weights_folder(config.backbone)
    others = [name for part in PARTS if part != kind for name in NAMES[part]]
    for name in (*others, CONFIG):
        if (source / name).is_file() and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    if (source / TOKENIZER).is_dir():
        shutil.copytree(source / TOKENIZER, folder / TOKENIZER, dirs_exist_ok=True)
