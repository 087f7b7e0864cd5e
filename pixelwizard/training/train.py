"""Training from a configuration: data, network, Lightning fit, continuation and export."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning as L
import torch

from pixelwizard.config.train import TrainConfig
from pixelwizard.io.progress import silence_lightning
from pixelwizard.parallel.mesh import Rank, trainer_options
from pixelwizard.tracking import open_tracker
from pixelwizard.tracking.base import Tracker
from pixelwizard.training.checkpointing import (
    OURS,
    CheckpointFiles,
    Checkpoints,
    last_checkpoint,
    read_checkpoint,
    refuse_other,
)
from pixelwizard.training.exports import export
from pixelwizard.training.modules import TrainingModule
from pixelwizard.training.samples import Samples
from pixelwizard.training.sharded import TrainingStrategy
from pixelwizard.training.starts import make_module
from pixelwizard.training.training_data import TrainingData
from pixelwizard.training.training_log import Timing, TrainingLog, Waiting


def train(config: TrainConfig, rank: Rank | None = None) -> int:
    """Train to the configured end, from the run folder's last checkpoint if there is one.

    Every ``rank`` of several calls this; the first keeps log, tracker and export. Returns the exit
    code, 0. Raises ValueError where the settings or files do not allow it.
    """
    rank = rank or Rank()
    silence_lightning()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    run_dir = Path(config.run_dir)
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = rank.everyone.from_first(last_checkpoint(checkpoints))
    if last is None or not is_finished(config, last):
        data = TrainingData(config)
        torch.manual_seed(config.seed)
        module = make_module(config)
        if last is not None:
            refuse_other(last, config, module, identity_of(data, rank))
        fit(config, module, data, last, rank)
    if rank.is_first:
        print(run_dir / "export")
    return 0


def fit(
    config: TrainConfig, module: TrainingModule, data: TrainingData, last: Path | None, rank: Rank
) -> None:
    """Let Lightning train, from the checkpoint ``last`` on, with all that goes on beside it."""
    run_dir = Path(config.run_dir)
    tracker = open_tracker(config) if rank.is_first else Tracker()
    export_both = partial(export, config, run_dir / "export")
    options = trainer_options(rank, rank.everyone, TrainingStrategy)
    identity, states = identity_of(data, rank), run_dir / "checkpoints"
    callbacks: list[L.Callback] = [
        Timing(),
        Checkpoints(config, states, identity, export_both, rank),
        Waiting(),
    ]
    if rank.is_first:
        callbacks.insert(1, TrainingLog(run_dir, tracker))
    if config.samples.every:
        assert data.sources is not None and data.sources.held_out is not None
        callbacks.insert(-1, Samples(config, data.sources.held_out, tracker, rank.is_first))
    trainer = L.Trainer(
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        precision=config.trainer.precision,
        accumulate_grad_batches=config.trainer.accumulate,
        benchmark=True,  # batches have one shape: a GPU may look for its fastest convolutions
        plugins=[CheckpointFiles(), *options.pop("plugins")],
        val_check_interval=config.checkpoint.every * config.trainer.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run_dir,
        callbacks=callbacks,
        **options,
    )
    done = False
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last)
        done = True
    finally:
        tracker.finish(None, done)


def identity_of(data: TrainingData, rank: Rank) -> str:
    """What a state of a training goes on with: the data, and how many ranks share them."""
    return data.identity + (f" for {rank.mesh.world} ranks" if rank.mesh.world > 1 else "")


def is_finished(config: TrainConfig, checkpoint: Path) -> bool:
    """Whether the training that wrote a checkpoint had reached its configured end."""
    state = read_checkpoint(checkpoint)
    minutes, seconds = config.trainer.max_minutes, state[OURS]["seconds"]["step"]
    by_time = minutes is not None and seconds >= 60 * minutes
    return by_time or state["global_step"] >= config.trainer.max_steps
