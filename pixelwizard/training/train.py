"""Training from a configuration: data, network, Lightning's fit, resume and export."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from pixelwizard.config.objective import NETWORKS
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import blamed
from pixelwizard.config.train import TrainConfig
from pixelwizard.config.trainer import culprit, lightning_trainer, own_callbacks
from pixelwizard.io.files import write_json
from pixelwizard.io.terminal import reason, silence_lightning
from pixelwizard.parallel.mesh import Rank, trainer_options
from pixelwizard.records.run_folder import WorkStopped, is_out_of_memory
from pixelwizard.tracking import Tracker
from pixelwizard.tracking.fallback import FallbackTracker
from pixelwizard.training.checkpointing import (
    OURS,
    CheckpointFiles,
    Checkpoints,
    last_checkpoint,
    read_checkpoint,
    refuse_other,
)
from pixelwizard.training.data import Examples, TrainingData
from pixelwizard.training.networks.base import TrainedNetwork
from pixelwizard.training.samples import Samples
from pixelwizard.training.sharded import TrainingStrategy
from pixelwizard.training.training_log import RunLog, TrainingLog

logger = logging.getLogger(__name__)


def train(config: TrainConfig, rank: Rank | None = None) -> int:
    """Train to the configured end, from the run folder's last checkpoint if there is one.

    Every ``rank`` of several calls this; the first keeps log, tracker and export. Returns the exit
    code, 0. Raises ValueError where the settings or files do not allow it, WorkStopped where the
    training cannot continue.
    """
    rank = rank or Rank()
    silence_lightning()
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    run_dir = Path(config.run_dir)
    checkpoints = run_dir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    last = rank.everyone.from_first(last_checkpoint(checkpoints) if rank.is_first else None)
    if last is None or not is_finished(config, last):
        module = make_module(config)
        examples = module.open_data()
        if last is not None:
            refuse_other(last, config, module, identity_of(examples, rank))
        elif rank.is_first:
            print(f"training starts {module.start}", flush=True)
            write_json(run_dir / "start.json", asdict(module.start))
        fit(config, module, examples, last, rank)
    if rank.is_first and (run_dir / "export").is_dir():
        print(run_dir / "export")
    return 0


def make_module(config: TrainConfig) -> TrainedNetwork:
    """The network to train, with its starting weights."""
    torch.manual_seed(config.seed)
    return NETWORKS.make(config.part, "objective.kind", config=config)


def fit(
    config: TrainConfig, module: TrainedNetwork, examples: Examples, last: Path | None, rank: Rank
) -> None:
    """Let Lightning train from the checkpoint ``last`` on, with all callbacks."""
    tracker = FallbackTracker(config) if rank.is_first else Tracker()
    callbacks: list[L.Callback] = []
    loggers: list[Logger] = []
    if rank.is_first:
        log = RunLog(Path(config.run_dir))
        callbacks, loggers = [TrainingLog(log)], [log, *tracker.loggers]
    if config.samples.every:
        assert examples.shown is not None
        callbacks.append(Samples(config, examples.shown, tracker, rank.is_first))
    own = own_callbacks(config)
    checkpoints = Checkpoints(config, identity_of(examples, rank), rank)
    callbacks += [*own.values(), checkpoints]
    trainer = make_trainer(config, rank, logger=loggers, callbacks=callbacks)
    done = False
    try:
        data = TrainingData(examples, config.trainer.accumulate_grad_batches, module.watch)
        trainer.fit(module, datamodule=data, ckpt_path=last)
        done = True
    except Exception as error:
        if (name := culprit(error, own)) is not None:
            failed, said = f"callbacks.{name}", reason(error, 500)
        elif (part := _at_fault(config, error)) is not None:
            failed, said = part, f"{_last_line(error)}; run.log has the trace"
            logger.error("%s failed", part, exc_info=error)
        else:
            raise
        sentence = f"{failed} failed at step {trainer.global_step} ({said})"
        if kept := checkpoints.saved:
            raise WorkStopped(f"{sentence}; the state of step {kept} is kept") from error
        raise ConfigError(f"{sentence}; nothing is kept yet") from error
    finally:
        tracker.finish(None, done)


def _at_fault(config: TrainConfig, error: Exception) -> str | None:
    """The user's class that raised something else than a message to the user."""
    if isinstance(error, (ValueError, WorkStopped)) or is_out_of_memory(error):
        return None
    return blamed(config, error)


def _last_line(error: Exception) -> str:
    """The class of an error and what it says; of another process's error its last line."""
    text = f"{type(error).__name__}: {error}"
    return text.strip().splitlines()[-1]


def make_trainer(config: TrainConfig, rank: Rank, **parts: Any) -> L.Trainer:
    """Lightning's Trainer. Raises ConfigError if its arguments do not fit together."""
    options = trainer_options(rank, rank.everyone, TrainingStrategy)
    options["plugins"] = [CheckpointFiles(), *options["plugins"]]
    own = dict(
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        precision=config.trainer.precision,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        log_every_n_steps=config.trainer.log_every_n_steps,
        reload_dataloaders_every_n_epochs=1,  # an epoch continues in the data
        benchmark=True,  # batches have one shape: a GPU may look for its fastest convolutions
        val_check_interval=config.checkpoint.every * config.trainer.accumulate_grad_batches,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=config.run_dir,
    )
    given: dict[str, Any] = {**own, **config.trainer.keywords(config.run_dir)}
    trainer: L.Trainer = lightning_trainer(**given, **parts, **options)
    return trainer


def identity_of(examples: Examples, rank: Rank) -> str:
    """What a checkpoint must continue with: the data, and the number of ranks."""
    return examples.identity + (f" for {rank.mesh.world} ranks" if rank.mesh.world > 1 else "")


def is_finished(config: TrainConfig, checkpoint: Path) -> bool:
    """Whether the training that wrote a checkpoint had come to its end, or a callback ended it."""
    state = read_checkpoint(checkpoint)
    if config.callbacks and state[OURS].get("stopped"):
        return True
    minutes, seconds = config.trainer.minutes, state[OURS]["seconds"]["step"]
    by_time = minutes is not None and seconds >= 60 * minutes
    return by_time or state["global_step"] >= config.trainer.max_steps
