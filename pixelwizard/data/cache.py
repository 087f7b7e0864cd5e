"""Processes that write the latents of procedural clips during a training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.data.examples import Clips, Recipe
from pixelwizard.data.latents import Encoding, Shards, fill
from pixelwizard.io.process import ProcessLost
from pixelwizard.io.terminal import Line, reason

POLL_SECONDS = 0.2
KILLED = "the processes that encode the training clips were killed, perhaps for want of memory"


@dataclass(frozen=True)
class Filling:
    """Clips to encode into shards, by a recipe."""

    clips: Clips
    shards: Shards
    recipe: Recipe

    @property
    def state(self) -> str:
        """The progress so far."""
        done = min(self.shards.present * self.shards.shard, self.shards.count)
        return f"{self.shards.split} {done}/{self.shards.count}"


class Cache:
    """Fills shards in their order, with ``workers`` processes as long as this one runs.

    With none, everything is written before this is made. Where there is a GPU the clips are
    encoded on it. ``wait`` returns once a file exists.
    """

    def __init__(
        self, backbone: BackboneSettings, fillings: Sequence[Filling], workers: int
    ) -> None:
        self.fillings, self.line = fillings, Line()
        self.processes: list[BaseProcess] = []
        for one in fillings:
            one.shards.drop_damaged()
        if all(one.shards.present == len(one.shards.paths) for one in fillings):
            return
        self.line.say("encoding training clips; training starts once enough are encoded")
        if workers == 0:
            for _ in _fill_all(backbone, fillings):
                self._show()
            self.line.close()
            return
        context = multiprocessing.get_context("spawn")
        self.failures, failed = context.Pipe(duplex=False)
        for worker in range(workers):
            arguments = (backbone, fillings, worker, workers, os.getpid(), failed)
            self.processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self.processes[-1].start()

    def wait(self, path: Path) -> None:
        """Return once ``path`` exists. Raises ValueError with the reason if it never will,
        ProcessLost if nobody is left to write it.
        """
        while not path.exists():
            if self.processes and self.failures.poll():
                with contextlib.suppress(EOFError):  # they all have ended without a word
                    why = self.failures.recv()
                    raise ValueError(f"the training clips cannot be encoded: {why}")
            if not any(process.is_alive() for process in self.processes) and not path.exists():
                raise ProcessLost(KILLED)
            self._show()
            time.sleep(POLL_SECONDS)

    def _show(self) -> None:
        self.line.show("encoding " + ", ".join(one.state for one in self.fillings))


def _work(
    backbone: BackboneSettings,
    fillings: Sequence[Filling],
    worker: int,
    of: int,
    parent: int,
    failed: Any,
) -> None:
    """Fill the shards in their order, with one thread, as long as the parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        for _ in _fill_all(backbone, fillings, worker, of):
            pass
    except Exception as error:
        with contextlib.suppress(OSError):  # nobody listens once the parent has ended
            failed.send(reason(error))


def _fill_all(
    backbone: BackboneSettings, fillings: Sequence[Filling], worker: int = 0, of: int = 1
) -> Iterator[Path]:
    """Write the missing shards of all fillings, every ``of``-th of them; yields each one."""
    encoding = Encoding(backbone, vae_dtype=torch.bfloat16)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for one in fillings:
        yield from fill(encoding, one.clips, one.shards, one.recipe, device, worker, of)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in native code."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
