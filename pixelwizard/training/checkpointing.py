"""Checkpoints of a training: written atomically, rotated, continued only by the same training.

Besides Lightning's content (weights, average, optimizer, step, callbacks) a checkpoint has the
state of the random numbers, the position in the data, the seconds so far and the settings. It is
written when everything of its step is done, so a continued training writes the same rows and
videos as an uninterrupted one.
"""

from __future__ import annotations

import pickle
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch.distributed.tensor import DTensor

from pixelwizard.config.own_source import source_digest
from pixelwizard.config.schema import differences, marked, to_plain
from pixelwizard.config.targets import targets
from pixelwizard.config.train import TrainConfig
from pixelwizard.io.files import remove_unfinished
from pixelwizard.io.process import Interrupted, on_interrupt
from pixelwizard.models.lora.adapter import is_adapter
from pixelwizard.models.wan.files import save_pickle
from pixelwizard.parallel.mesh import Rank
from pixelwizard.records.run_folder import WorkStopped, determining
from pixelwizard.training.exports import export_adapter
from pixelwizard.training.networks.base import TrainedNetwork
from pixelwizard.training.sharded import completed, gather_full
from pixelwizard.training.starts import base_digest

OURS = "pixelwizard"
SHOWN = 3


def last_checkpoint(folder: Path) -> Path | None:
    """The undamaged checkpoint of the highest step.

    A damaged one is named on the screen and passed over. Raises ValueError where all are.
    """
    paths = sorted(folder.glob("step-*.ckpt"), reverse=True)
    for path in paths:
        if is_intact(path):
            return path
        print(f"{path} is damaged; the training continues from the one before", flush=True)
    if paths:
        raise ValueError(f"{folder} holds damaged checkpoints only; remove it to start again")
    return None


def is_intact(path: Path) -> bool:
    """Whether a file is a checkpoint whose records have the checksums written with them."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None and OURS in read_checkpoint(path)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, pickle.UnpicklingError):
        return False


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a training: tensors and plain values, nothing in the file is executed."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def refuse_other(path: Path, config: TrainConfig, module: TrainedNetwork, identity: str) -> None:
    """Raise ValueError unless a state is of this network, this data and these settings."""
    state = read_checkpoint(path)
    ours, weights = state[OURS], state["state_dict"]
    own = module.state_dict()
    names = [n for n in {**weights, **own} if _shape(weights, n) != _shape(own, n)]
    problems = [f"its weight {n} is {_shape(weights, n)}, now {_shape(own, n)}" for n in names]
    if ours["data"] != identity:
        problems.append(f"its data were {ours['data']}, now {identity}")
    now = determined(config)
    for key in differences(ours["config"], now):
        if _is_later(key, ours["config"], now):
            continue
        problems.append(f"{key} was {_value(ours['config'], key)}, now {_value(now, key)}")
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"{path} is of another training: {'; '.join(problems[:SHOWN])}{more}; choose another"
            " run_dir, or continue with its network and data"
        )


def determined(config: TrainConfig) -> dict[str, Any]:
    """What determines a training, including the sources of users' classes."""
    sources = {key: source_digest(target.path) for key, target in targets(config).items()}
    own = {key: digest for key, digest in sources.items() if not key.startswith("callbacks.")}
    found = {**determining(config), **({"source": own} if own else {})}
    if config.adapter.used:
        return {**found, "base": base_digest(config)}
    del found["adapter"]  # older checkpoints know of none
    return found


def _is_later(key: str, before: Any, now: Any) -> bool:
    """Whether a setting that an older checkpoint knows nothing of is at its default."""
    if key not in marked(TrainConfig, "later") or _value(before, key) is not None:
        return False
    return bool(_value(now, key) == _value(to_plain(TrainConfig(run_dir="")), key))


def _shape(weights: dict[str, Any], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "absent"


def _value(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def infinite_weight(module: torch.nn.Module) -> str | None:
    """The name of a weight that is not finite, in this rank's share of them."""
    for name, value in module.state_dict().items():
        local = value.to_local() if isinstance(value, DTensor) else value
        if not torch.isfinite(local).all():
            return name
    return None


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints are written atomically, and read without running code from them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        try:
            save_pickle(checkpoint, Path(path))
        except OSError as error:
            raise ValueError(
                f"{path} cannot be written ({error.strerror or error}); the checkpoint before it"
                " stays: make room, and the same command continues from there"
            ) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return read_checkpoint(path)


class Checkpoints(Checkpoint):
    """Writes export and checkpoint, every so many steps and at the end.

    The wish to stop waits until the step and what follows from it are done and the state is
    written; a second one does not, nor does one with nothing to write.
    """

    def __init__(self, config: TrainConfig, identity: str, rank: Rank) -> None:
        self.config, self.identity, self.rank = config, identity, rank
        self.settings = determined(config)
        self.folder = Path(config.run_dir) / "checkpoints"
        self.saved = self.wish = 0
        self.begun, self.signals = False, ExitStack()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[OURS] = {
            "config": self.settings,
            "data": self.identity,
            "next_batch": trainer.global_step * self.config.trainer.accumulate_grad_batches,
            "seconds": dict(pl_module.watch.seconds),
            "random": torch.get_rng_state(),
            "stopped": bool(trainer.should_stop) and pl_module.progress < 1,
        }
        counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (counts["total"], counts["current"]):
            count["ready"] = count["started"]  # a batch that was fetched will be fetched again

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        pl_module.watch.seconds.update(checkpoint[OURS]["seconds"])
        torch.set_rng_state(checkpoint[OURS]["random"])

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.saved = trainer.global_step
        remove_unfinished(self.folder)
        self.signals.enter_context(on_interrupt(self.hear))  # after Lightning's own handlers

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # Lightning counts a step more after some restarts, and would log other steps from then on
        trainer.fit_loop.epoch_loop._batches_that_stepped = step
        if batch["step"] % self.config.trainer.accumulate_grad_batches:
            return
        wish = max(self.rank.everyone.gather(self.wish))  # all stop at one step
        if step > self.saved and (wish or step % self.config.checkpoint.every == 0):
            self.save(trainer, pl_module)
        if wish:
            raise Interrupted(wish)
        self.begun = True

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step > self.saved:
            self.save(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self.signals.close()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.signals.close()

    def hear(self, number: int) -> None:
        """Note a signal's request to stop; raises Interrupted if it need not wait."""
        if self.wish or not self.begun:
            raise Interrupted(number)
        self.wish = number

    def save(self, trainer: L.Trainer, module: TrainedNetwork) -> None:
        """Write the export and one checkpoint, drop the oldest checkpoints; all ranks take part.

        Raises WorkStopped, with nothing written, where a weight is not finite. Lightning's
        ``fast_dev_run`` leaves nothing.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        before, step = module.watch.enter("checkpoints"), trainer.global_step
        if name := next(filter(None, self.rank.everyone.gather(infinite_weight(module))), None):
            raise WorkStopped(
                f"training stopped at step {step}: weights are no longer finite ({name}); the state"
                f" of step {self.saved} stays, try a lower optimizer.lr or optimizer.clip"
            )
        self.export(module)  # first: once there is a checkpoint, nothing is left to do
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt", weights_only=False)
        if self.rank.is_first:
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.config.checkpoint.keep]:
                old.unlink()
        self.saved = step
        module.watch.enter(before)

    def export(self, module: TrainedNetwork) -> None:
        """Write what is trained for its readers; all ranks take part, the first writes."""
        folder = self.folder.parent / "export"
        if self.config.adapter.used:
            state = module.average.state_dict()
            weights = gather_full({name: state[name] for name in filter(is_adapter, state)})
            if self.rank.is_first:
                export_adapter(weights, self.config, folder)
            return
        average, last = completed(module.average, module.make), module.network
        if self.config.checkpoint.container:
            last = completed(last, module.make)
        if self.rank.is_first:
            module.export(folder, average, last)
