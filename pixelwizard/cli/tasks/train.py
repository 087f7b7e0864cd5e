"""``pixelwizard train``: the networks, from scratch or from other weights."""

from __future__ import annotations

from pathlib import Path

from pixelwizard.cli.tasks import Command
from pixelwizard.config.objective import STAGES
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.train import DataSettings, TrainConfig
from pixelwizard.data.table import clip_table
from pixelwizard.launch.devices import mesh_of
from pixelwizard.models.checkpoints import PARTS, require_weights

EXAMPLES = """\
  pixelwizard train experiments=train_tiny_vae           the autoencoder of the miniature
  pixelwizard train experiments=train_tiny_vae_decoder   its decoder, trained further
  pixelwizard train experiments=train_tiny_anchor        its anchor network
  pixelwizard train experiments=train_tiny_detail        its detail network
  pixelwizard train experiments=train_tiny_clip          a small CLIP that scores its videos
  pixelwizard train experiments=train_tiny_video         and a small video network
  pixelwizard train objective=flow stage=detail trainer.max_steps=100 run_dir=FOLDER
  pixelwizard train parallel=fsdp parallel.prompts=2 trainer.max_steps=100

Repeat a command to continue an interrupted training; run_dir=FOLDER/export has the weights."""


def check(config: TrainConfig) -> None:
    """Refuse what cannot run before anything is written. Raises ValueError."""
    if config.parallel.launch:
        mesh_of(config)
    needed = {config.part} & {*PARTS} if config.objective.init_from is None else set()
    if config.part in STAGES:
        check_clips(config.data)
        if config.data.kind != "latents":
            needed |= {"text_encoder", "vae"}
        elif config.samples.every:
            needed |= {"vae"}
    teacher = config.objective.teacher
    if teacher is not None and not Path(teacher).exists():
        raise ConfigError(
            f"objective.teacher={teacher} is neither a file nor a folder; name weights of the"
            f" {config.part} network"
        )
    require_weights(config.backbone, [part for part in PARTS if part in needed])


def check_clips(data: DataSettings) -> None:
    """Refuse a folder of clips whose table cannot be read. Raises ConfigError."""
    if data.kind == "clips":
        clip_table(data).tell()
    elif data.kind != "shapes" and not Path(data.dir).is_dir():
        raise ConfigError(f"data.dir={data.dir} is not a folder; name the one with the {data.kind}")


def finished(config: TrainConfig) -> bool:
    """Whether a training that ended well still has what it exported."""
    return (Path(config.run_dir) / "export").is_dir()


COMMAND = Command(EXAMPLES, check, finished=finished)
