"""``pixelwizard train``: the networks, from scratch or from other weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from pixelwizard.cli.tasks import Command, Study
from pixelwizard.comparison.few_step.files import (
    START,
    check_against,
    is_measured,
    label,
    start_config,
)
from pixelwizard.config.objective import STAGES
from pixelwizard.config.parallel import mesh_of
from pixelwizard.config.schema import ConfigError, listed
from pixelwizard.config.train import ARM_BUDGETS, DataSettings, TrainConfig
from pixelwizard.data.table import clip_table
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
  pixelwizard train experiments=compare_objectives seed=0 objective=flow_map

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
    is_there = (Path(config.run_dir) / "export").is_dir()
    return is_there and (config.comparison.budget is None or is_measured(config))


def study(folder: Path, jobs: Mapping[tuple[str, ...], TrainConfig]) -> Study:
    """The arms of a comparison start from one network, made first, and share a page."""
    arms = {
        swept: config for swept, config in jobs.items() if config.comparison.budget in ARM_BUDGETS
    }
    if not arms:
        return Study()
    one = next(iter(arms.values()))
    check_against(one.comparison.against, map(label, arms), folder)
    first = {} if one.comparison.start else {START: start_config(one, folder)}
    return Study(first, lambda: show_page(folder, one))


def show_page(folder: Path, arm: TrainConfig) -> None:
    """Write the page of a comparison and say where it is."""
    from pixelwizard.comparison.few_step.page import PAGE, write_page  # with torch and matplotlib

    if left_out := write_page(folder, arm):
        print(f"not measured, so not on the page: {listed(left_out)}", file=sys.stderr)
    print(folder / PAGE)


COMMAND = Command(EXAMPLES, check, finished=finished, study=study)
