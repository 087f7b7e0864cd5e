"""Samples during a training: videos of fixed examples, and their scores.

The first held-out examples, always with the same noise: an anchor from the text, or the detail of
the example's anchor. The unconditional pass of guidance gets the empty text, as in training.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from pixelwizard.config.output import SCORED_FRAMES, VideoSettings
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch, Source
from pixelwizard.diffusion.sampling import initial_noise
from pixelwizard.evaluation.names import resolve_auto
from pixelwizard.io.video import VideoWriter
from pixelwizard.models.weights import load_vae
from pixelwizard.stages.decode import Decode
from pixelwizard.tracking import Tracker
from pixelwizard.tracking.loggers import StepTable
from pixelwizard.training.velocity import VelocityNetwork

COLUMNS = ("step", "score", "value", "low", "high", "recipe")


class Samples(L.Callback):
    """Videos in ``samples/step-N/`` with ``samples.csv``, and in the tracker.

    Every rank samples, as the weights may lie in slices on all of them; the first writes.
    """

    def __init__(
        self, config: TrainConfig, source: Source, tracker: Tracker, is_first: bool
    ) -> None:
        self.config, self.source, self.tracker = config, source, tracker
        self.is_first = is_first
        self.folder = Path(config.run_dir) / "samples"
        self.table = StepTable(Path(config.run_dir) / "samples.csv", COLUMNS)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.is_first:
            self.table.keep(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *rest: Any
    ) -> None:
        due = trainer.global_step % self.config.samples.every == 0
        if due and pl_module.completes_step(batch):
            before = pl_module.watch.enter("samples")
            self.make(trainer.global_step, pl_module)
            pl_module.watch.enter(before)

    @torch.no_grad()
    def make(self, step: int, module: VelocityNetwork) -> None:
        """Sample, write, score and log."""
        count = min(self.config.samples.count, self.source.size(0))
        examples = module.encoded(self.source.batch(range(count), random.Random("samples")))
        module.average.eval()
        latents = [self._sampled(module, examples, row) for row in range(count)]
        module.average.train()
        if self.is_first:
            self._keep(step, module, latents, examples["caption"])

    def _keep(
        self, step: int, module: VelocityNetwork, latents: list[Tensor], texts: list[str]
    ) -> None:
        vae = load_vae(self.config.backbone, module.device, module.encoding.dtype)
        folder = self.folder / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        captions, size = {}, module.geometry
        for row, (latent, text) in enumerate(zip(latents, texts, strict=True)):
            path = folder / f"{row:02d}.mp4"
            with VideoWriter(path, size.width, size.height, VideoSettings()) as writer:
                for frames in Decode(vae)(latent):
                    writer.write(frames)
            captions[path.stem] = text
            self.tracker.sample(path, text, step)
        metrics = self.config.metrics
        if metrics.enabled and (metrics.asked or size.frames >= SCORED_FRAMES):
            self._score(step, sorted(folder.glob("*.mp4")), captions)

    def _sampled(self, module: VelocityNetwork, examples: Batch, row: int) -> Tensor:
        """The latent of one example."""
        shape = (self.config.backbone.dit.in_dim, *module.geometry.latent_grid)
        noise = initial_noise(shape, row).to(module.device)
        names = [name for name in ("text", "empty", "condition") if name in examples]
        example = {name: examples[name][row].to(module.device) for name in names}
        half = self.config.trainer.precision == "bf16-mixed"
        with torch.autocast(module.device.type, torch.bfloat16, enabled=half):
            return module.sample(noise, example)

    def _score(self, step: int, videos: list[Path], captions: dict[str, str]) -> None:
        from pixelwizard.evaluation.evaluate import Evaluation  # with its networks' libraries

        given = self.config.metrics
        slow = [name for name in ("vbench", "musiq", "dover") if getattr(given, name) == "auto"]
        given = replace(given, **dict.fromkeys(slow))  # minutes, where samples take seconds
        settings = resolve_auto(given, self.config.backbone.name)
        scores = Evaluation(videos, captions, settings).run().scores
        for score in scores:
            bounds = {name: f"{getattr(score, name):.6g}" for name in ("value", "low", "high")}
            self.table.add([{"step": step, "score": score.name, "recipe": score.recipe, **bounds}])
        values = {f"samples/{score.name}": score.value for score in scores}
        for logger in self.tracker.loggers:
            logger.log_metrics(values, step)
