"""A backbone of random weights in the real layout, and runs of it that take a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from pixelwizard.config.backbone import BackboneSettings, DiTSizes, TextSizes, VAESizes
from pixelwizard.config.few_step import (
    ConsistencySettings,
    DMDSettings,
    MeanFlowSettings,
    ProgressiveSettings,
)
from pixelwizard.config.generate import GenerateConfig, SamplerSettings, StoreSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.objective import (
    RANDOM,
    ConditionSettings,
    FlowSettings,
    ObjectiveSettings,
)
from pixelwizard.config.output import TrackerSettings
from pixelwizard.config.schema import to_plain
from pixelwizard.config.train import (
    CheckpointSettings,
    DataSettings,
    DegradationSettings,
    OptimizerSettings,
    TrainConfig,
)
from pixelwizard.config.trainer import TrainerSettings
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.files import save
from pixelwizard.models.wan.umt5 import (
    TextEncoder,
    load_tokenizer,
    official_names,
    write_word_tokenizer,
)
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import copy_tokenizer, save_network

WORDS = ["a", "red", "blue", "circle", "square", "moves", "left"]
BACKBONE = BackboneSettings(
    name="small",
    negative_prompt="blue",
    dit=DiTSizes(
        in_dim=4,
        out_dim=4,
        dim=64,
        ffn_dim=64,
        freq_dim=16,
        text_dim=16,
        text_len=8,
        num_heads=2,
        num_layers=2,
    ),
    detail_layers=1,
    control_blocks=[0],
    vae=VAESizes(
        z_dim=4, dim=4, dec_dim=4, num_res_blocks=1, latent_mean=[0.0] * 4, latent_std=[1.0] * 4
    ),
    text=TextSizes(vocab_size=12, dim=16, dim_attn=16, dim_ffn=24, num_heads=2, num_layers=1),
)
SIZE = ResolutionSettings(width=128, height=64, frames=5, anchor_width=64, anchor_height=32)


EVEN = FlowSettings(weighting="uniform")
OBJECTIVES: dict[str, dict[str, Any]] = {
    "vae": dict(kind="vae"),
    "anchor": dict(kind="flow", flow=EVEN),
    "detail": dict(kind="shortcut", flow=EVEN, condition=ConditionSettings(adapter_init_std=0.05)),
}
"""An objective for each part of a backbone."""
FEW_STEP: dict[str, dict[str, Any]] = {
    "flow_map": dict(flow=replace(EVEN, guidance=2.0, text_drop=0.5)),
    "mean_flow": dict(
        flow=FlowSettings(guidance=2.0), mean_flow=MeanFlowSettings(probability=0.5, mix=0.2)
    ),
    "consistency": dict(consistency=ConsistencySettings(parts=8, guidance=2.0)),
    "continuous": dict(kind="consistency", consistency=ConsistencySettings(kind="continuous")),
    "progressive": dict(progressive=ProgressiveSettings(counts=[4, 2], guidance=2.0)),
    "dmd": dict(dmd=DMDSettings(ratio=2)),
    "jumps": dict(kind="dmd", dmd=DMDSettings(ratio=2, rollout="jumps", counts=[3])),
}
"""Settings of the few-step objectives: every kind of step, with guidance where there is any."""


def randomise(network: nn.Module, scale: float = 0.2) -> nn.Module:
    """Replace every weight: nothing stays at zero, so every input matters."""
    for weight in network.parameters():
        nn.init.normal_(weight, std=scale)
    return network


def write_backbone(folder: Path) -> BackboneSettings:
    """Write the four networks into ``folder``; the settings that point there."""
    torch.manual_seed(0)
    write_word_tokenizer(folder / "words", WORDS)
    text = TextEncoder(BACKBONE.text, load_tokenizer(folder / "words"), BACKBONE.dit.text_len)
    detail = ShortcutDiT(BACKBONE.detail_dit, BACKBONE.control_blocks)
    save_network(randomise(WanDiT(BACKBONE.dit)), "anchor", folder)
    save_network(randomise(detail), "detail", folder)
    save_network(randomise(WanVAE(BACKBONE.vae)), "vae", folder)
    save_text_encoder(randomise(text), folder)
    return replace(BACKBONE, folder=str(folder))


def save_text_encoder(
    encoder: TextEncoder, folder: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the weights of a text encoder into a backbone's folder, and its tokenizer."""
    copy_tokenizer(Path(encoder.tokenizer.name_or_path), folder)
    save(official_state(encoder), folder / NAMES["text_encoder"][0], dtype)


def official_state(encoder: TextEncoder) -> dict[str, Tensor]:
    """The weights of a text encoder under their official names."""
    state, layers = encoder.model.state_dict(), encoder.model.config.num_layers
    return {official: state[name] for official, name in official_names(layers).items()}


def small_config(backbone: BackboneSettings, folder: Path, **changes: Any) -> GenerateConfig:
    """A run of two prompts, three anchor and two detail steps in ``folder``."""
    config = GenerateConfig(
        run_dir=str(folder / "run"),
        backbone=backbone,
        resolution=SIZE,
        anchor=SamplerSettings(steps=3),
        schedule=SamplerSettings(steps=2, step_sizes="raw"),
        tracker=TrackerSettings(kind="none"),
        store=StoreSettings(dir=str(folder / "store")),
        prompt=["a red circle", "a blue square moves left"],
    )
    return replace(config, **changes)


def write_config(config: GenerateConfig) -> Path:
    """Lay out the run folder as the command does; the folder."""
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(config)), encoding="utf-8")
    return folder


def few_step(name: str) -> dict[str, Any]:
    """The settings of a few-step objective that starts from the backbone's weights."""
    found = {"kind": name, "init_from": None, "flow": FlowSettings(), **FEW_STEP[name]}
    return found


def small_training(
    backbone: BackboneSettings, folder: Path, latents: Path, part: str, **objective: Any
) -> TrainConfig:
    """Six steps, a checkpoint after every third; the rates hold."""
    return TrainConfig(
        run_dir=str(folder),
        backbone=backbone,
        resolution=SIZE,
        data=DataSettings(
            dir=str(latents),
            **dict(count=4, held_out=2, ready=2, shard=2, workers=0),
            degradation=DegradationSettings(shrink=[]),
            **dict(crop=32, crop_frames=5, crops=2, window=2),
        ),
        objective=ObjectiveSettings(
            batch=2, **{"init_from": RANDOM, **OBJECTIVES[part], **objective}
        ),
        optimizer=OptimizerSettings(decay=0.0, warmup=2),
        trainer=TrainerSettings(max_steps=6, log_every_n_steps=1),
        checkpoint=CheckpointSettings(every=3),
        tracker=TrackerSettings(kind="none"),
    )
