"""Processes that fill the cache of latents beside a training."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from multiprocessing.process import BaseProcess

import torch

from pixelwizard.data.latents import Part, fill
from pixelwizard.train_settings import TrainConfig
from pixelwizard.wan.weights import load_vae

POLL_SECONDS = 0.5


def prepare(config: TrainConfig, needed: list[Part]) -> list[BaseProcess]:
    """Fill the cache until training can start; returns the processes that go on filling it.

    The first part must be there with ``data.ready`` examples, the others (held-out) whole. With
    ``data.workers=0`` everything is encoded here before this returns.
    """
    if all(len(part.present) == len(part.paths) for part in needed):
        return []
    order = [*needed[1:], needed[0]]
    if config.data.workers == 0:
        vae = load_vae(config.backbone, dtype=torch.bfloat16)
        for part in order:
            for _ in fill(vae, config, part):
                _show(order)
        return []
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    for worker in range(config.data.workers):
        arguments = (config, order, worker, os.getpid())
        processes.append(context.Process(target=_work, args=arguments, daemon=True))
        processes[-1].start()
    while not _ready(config, needed):
        if not any(process.is_alive() for process in processes) and not _ready(config, needed):
            raise RuntimeError("the processes that encode the training clips have failed")
        time.sleep(POLL_SECONDS)
        _show(order)
    return processes


def _ready(config: TrainConfig, needed: list[Part]) -> bool:
    wanted = [min(config.data.ready, needed[0].count), *(part.count for part in needed[1:])]
    return all(
        len(part.present) * part.shard >= count for part, count in zip(needed, wanted, strict=True)
    )


def _show(parts: list[Part]) -> None:
    """The progress of the cache, on a terminal only."""
    if sys.stderr.isatty():
        text = ", ".join(
            f"{part.kind} {part.split} {len(part.present) * part.shard}/{part.count}"
            for part in parts
        )
        print(f"\rencoding training clips: {text} ", end="", file=sys.stderr, flush=True)


def _work(config: TrainConfig, order: list[Part], worker: int, parent: int) -> None:
    """Fill the parts in their order, with one thread, as long as the parent lives."""
    torch.set_num_threads(1)
    vae = load_vae(config.backbone, dtype=torch.bfloat16)
    for part in order:
        for _ in fill(vae, config, part, worker, config.data.workers):
            if os.getppid() != parent:
                return
