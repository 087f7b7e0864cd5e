"""Training from a configuration: cache, network, Lightning fit, continuation and export."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pixelwizard.checkpoints import (
    CONFIG,
    NAMES,
    PARTS,
    TOKENIZER,
    find_weights,
    weights_digest,
    weights_folder,
)
from pixelwizard.data.crops import CropBatches, held_out_crops
from pixelwizard.data.labelled import LabelledBatches, held_out
from pixelwizard.data.latents import LatentBatches, LatentReader, held_out_batches, parts
from pixelwizard.data.statistics import latent_statistics
from pixelwizard.metrics.tiny import VideoEncoder, new_clip, save_clip, save_video_encoder
from pixelwizard.objective_settings import ENCODERS
from pixelwizard.runs.autoencoder import VAEModule
from pixelwizard.runs.cache import prepare
from pixelwizard.runs.encoders import CLIPModule, VideoEncoderModule, maker
from pixelwizard.runs.modules import TrainingModule
from pixelwizard.runs.progress import silence_lightning
from pixelwizard.runs.training_callbacks import (
    CheckpointFiles,
    Checkpoints,
    TrainingLog,
    last_checkpoint,
    read_checkpoint,
)
from pixelwizard.runs.velocity import DetailModule, TextTable, VelocityModule
from pixelwizard.shortcut.network import ShortcutDiT
from pixelwizard.shortcut.weights import save_detail
from pixelwizard.train_settings import TrainConfig
from pixelwizard.wan.dit import WanDiT
from pixelwizard.wan.files import read_tensors, write
from pixelwizard.wan.vae import AttentionBlock, ResidualBlock, WanVAE
from pixelwizard.wan.weights import load_text_encoder, save_anchor, save_vae

HELD_OUT_BATCHES = 8
"""How many batches of held-out captions a feature network is measured on."""


def train(config: TrainConfig) -> int:
    """Train to the configured end, from the run folder's last checkpoint if there is one.

    Returns the exit code, 0. Raises ValueError where the settings or files do not allow it.
    """
    silence_lightning()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    run_dir = Path(config.run_dir)
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = last_checkpoint(checkpoints)
    if last is None or not is_finished(config, last):
        torch.manual_seed(config.seed)
        fit(config, make_module(config), run_dir, last)
    print(run_dir / "export")
    return 0


def fit(config: TrainConfig, module: TrainingModule, run_dir: Path, last: Path | None) -> None:
    """Let Lightning train, from the checkpoint ``last`` on, with all that goes on beside it."""
    every, keep = config.checkpoint.every, config.checkpoint.keep
    export_average = partial(export, config, run_dir / "export")
    trainer = L.Trainer(
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        precision=config.trainer.precision,
        devices=1,
        plugins=[CheckpointFiles()],
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run_dir,
        callbacks=[
            TrainingLog(run_dir / "log.csv"),
            Checkpoints(run_dir / "checkpoints", every, keep, export_average),
        ],
    )
    trainer.fit(module, datamodule=TrainingData(config), ckpt_path=last)


def is_finished(config: TrainConfig, checkpoint: Path) -> bool:
    """Whether the training that wrote a checkpoint had reached its configured end."""
    state = read_checkpoint(checkpoint)
    minutes = config.trainer.max_minutes
    by_time = minutes is not None and state["elapsed"] >= 60 * minutes
    return by_time or state["global_step"] >= config.trainer.max_steps


class TrainingData(L.LightningDataModule):
    """Batches of the objective: crops rendered on the way, or latents of the cache."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config

    def setup(self, stage: str) -> None:
        kind = self.config.part
        if kind == "vae" or kind in ENCODERS:
            return
        found = parts(self.config, weights_digest(self.config.backbone, "vae"))
        main = "pairs" if kind == "detail" else "clips"
        prepare(self.config, [found[main], found[f"{main}-heldout"]])
        sources = [found["pairs"]] if kind == "detail" else [found["clips"], found["pairs"]]
        self.reader = LatentReader(sources, anchors=kind == "anchor")
        self.held_out = LatentReader([found[f"{main}-heldout"]], anchors=kind == "anchor")

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        step = self.trainer.global_step
        if self.config.part == "vae":
            return DataLoader(CropBatches(self.config, step), batch_size=None)
        if self.config.part in ENCODERS:
            batches = LabelledBatches(maker(self.config), self.config.seed, step)
            return DataLoader(batches, batch_size=None)
        return DataLoader(LatentBatches(self.config, self.reader, step), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        if self.config.part == "vae":
            batches = held_out_crops(self.config)
        elif self.config.part in ENCODERS:
            batches = held_out(maker(self.config), HELD_OUT_BATCHES)
        else:
            batches = held_out_batches(self.config, self.held_out)
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def make_module(config: TrainConfig) -> TrainingModule:
    """The objective's network at its start, in its Lightning module."""
    kind, backbone = config.part, config.backbone
    if kind == "video_encoder":
        return VideoEncoderModule(config, started_from(VideoEncoder(), config))
    if kind == "clip_encoder":
        return CLIPModule(config, started_from(new_clip(), config))
    if kind == "vae":
        vae = WanVAE(backbone.vae)
        zero_residuals(vae)
        return VAEModule(config, started_from(vae, config))
    texts = TextTable(load_text_encoder(backbone))
    if kind == "anchor":
        return VelocityModule(config, started_from(WanDiT(backbone.dit), config), texts)
    detail = ShortcutDiT(backbone.detail_dit, backbone.control_blocks)
    for layer in detail.spatial_adapter.zero_layers.values():
        nn.init.normal_(layer.weight, std=config.objective.condition.adapter_init_std)
    if config.objective.condition.pass_through:
        pass_through(detail)
    return DetailModule(config, started_from(detail, config), texts)


def zero_residuals(vae: WanVAE) -> None:
    """Let every residual branch start at zero."""
    for module in vae.modules():
        if isinstance(module, (ResidualBlock, AttentionBlock)):
            last = module.residual[6] if isinstance(module, ResidualBlock) else module.proj
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)


@torch.no_grad()
def pass_through(network: WanDiT) -> None:
    """Start the network near v = x_t: orthonormal patch embedding, its transpose as the head.

    The norm before the head divides tokens by their deviation, about 1 here for a latent of unit
    variance.
    """
    weight = network.patch_embedding.weight  # [E, C, 1, patch_h, patch_w]
    dim, inputs = weight.shape[0], weight[0].numel()
    basis = nn.init.orthogonal_(torch.empty(dim, inputs))
    weight.copy_(((dim / inputs) ** 0.5 * basis).view_as(weight))
    head = basis.view_as(weight).permute(2, 3, 4, 1, 0).reshape(inputs, dim)
    network.head.head.weight.copy_((inputs / dim) ** 0.5 * head)


def started_from(network: nn.Module, config: TrainConfig) -> nn.Module:
    """The network with those tensors of ``objective.init_from`` that fit it by name and shape.

    A training of the decoder alone starts from the backbone's own autoencoder unless told
    otherwise. Raises ValueError if the file is not there or nothing in it fits.
    """
    path = config.objective.init_from
    if path is None and config.objective.decoder_only:
        path = str(find_weights(config.backbone, "vae"))
    if path is None:
        return network
    if not Path(path).is_file():
        raise ValueError(f"objective.init_from={path} is no file; give a .safetensors file")
    own: dict[str, Tensor] = network.state_dict()
    given = read_tensors(Path(path))
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fitting:
        raise ValueError(f"objective.init_from={path} has no tensor that fits this network")
    network.load_state_dict({**own, **fitting})
    return network


def export(config: TrainConfig, folder: Path, network: Any) -> None:
    """Write a network into a backbone's folder, with the other parts of the backbone beside it.

    With an autoencoder goes ``latent_statistics.yaml``: what ``backbone.vae`` has to say of it.
    """
    kind = config.part
    if config.part in ENCODERS:
        (save_clip if kind == "clip_encoder" else save_video_encoder)(network, folder)
        return
    if kind == "vae":
        save_vae(network, folder, torch.float32)
        mean, std = latent_statistics(network, config.resolution)
        rounded = {
            name: [round(value, 4) for value in values]
            for name, values in (("latent_mean", mean), ("latent_std", std))
        }
        text = yaml.safe_dump(rounded, default_flow_style=None, width=1000)
        write(folder / "latent_statistics.yaml", lambda part: part.write_text(text))
    elif kind == "anchor":
        save_anchor(network, folder, torch.float32)
    else:
        save_detail(network, folder, torch.float32)
    source = weights_folder(config.backbone)
    others = [name for part in PARTS if part != kind for name in NAMES[part]]
    for name in (*others, CONFIG):
        if (source / name).is_file() and not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    if (source / TOKENIZER).is_dir():
        shutil.copytree(source / TOKENIZER, folder / TOKENIZER, dirs_exist_ok=True)
