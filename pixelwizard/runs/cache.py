"""Processes that fill the cache of latents beside a training."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from pixelwizard.data.latents import Part, fill
from pixelwizard.runs.progress import Line
from pixelwizard.train_settings import TrainConfig
from pixelwizard.wan.weights import load_vae

POLL_SECONDS = 0.5


def prepare(config: TrainConfig, needed: list[Part]) -> None:
    """Fill the cache until training can start; processes go on filling it as long as this one runs.

    The first part must be there with ``data.ready`` examples, the others (held-out) whole. With
    ``data.workers=0`` everything is encoded here before this returns. Raises ValueError with the
    reason if encoding fails before; what fails later leaves the cache as large as it is.
    """
    if all(len(part.present) == len(part.paths) for part in needed):
        return
    order, line = [*needed[1:], needed[0]], Line()
    line.say("encoding training clips; training starts when enough are there")
    if config.data.workers == 0:
        vae = load_vae(config.backbone, dtype=torch.bfloat16)
        for part in order:
            for _ in fill(vae, config, part):
                line.show(_state(order))
        line.show("")
        return
    context = multiprocessing.get_context("spawn")
    failures, failed = context.Pipe(duplex=False)
    processes: list[BaseProcess] = []
    for worker in range(config.data.workers):
        arguments = (config, order, worker, os.getpid(), failed)
        processes.append(context.Process(target=_work, args=arguments, daemon=True))
        processes[-1].start()
    while not _ready(config, needed):
        if failures.poll():
            raise ValueError(f"the training clips cannot be encoded: {failures.recv()}")
        if not any(process.is_alive() for process in processes) and not _ready(config, needed):
            raise RuntimeError("the processes that encode the training clips were killed")
        time.sleep(POLL_SECONDS)
        line.show(_state(order))
    line.show("")


def _ready(config: TrainConfig, needed: list[Part]) -> bool:
    wanted = [min(config.data.ready, needed[0].count), *(part.count for part in needed[1:])]
    return all(
        len(part.present) * part.shard >= count for part, count in zip(needed, wanted, strict=True)
    )


def _state(parts: list[Part]) -> str:
    """How far the parts are."""
    counts = (
        f"{part.kind} {part.split} {min(len(part.present) * part.shard, part.count)}/{part.count}"
        for part in parts
    )
    return f"encoding {', '.join(counts)}"


def _work(config: TrainConfig, order: list[Part], worker: int, parent: int, failed: Any) -> None:
    """Fill the parts in their order, with one thread, as long as the parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        vae = load_vae(config.backbone, dtype=torch.bfloat16)
        for part in order:
            for _ in fill(vae, config, part, worker, config.data.workers):
                pass
    except Exception as error:
        with contextlib.suppress(OSError):  # nobody listens once training has begun
            failed.send(" ".join(str(error).split()) or type(error).__name__)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
