"""Every so many steps a look at what a network has learnt: videos of fixed examples, and scores.

The first held-out examples, always with the same noise: an anchor from the text, or the detail of
the example's anchor. The unconditional pass of guidance sees the empty text, as in training.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from pixelwizard.config.metrics import SCORED_FRAMES
from pixelwizard.config.output import VideoSettings
from pixelwizard.config.train import TrainConfig
from pixelwizard.data.batches import Batch, Source
from pixelwizard.diffusion.flow import initial_noise
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.evaluation.names import decided
from pixelwizard.io.video import VideoWriter
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.wan.weights import load_vae
from pixelwizard.stages.anchor import Anchor
from pixelwizard.stages.decode import Decode
from pixelwizard.stages.detail import Detail
from pixelwizard.tracking.base import Tracker
from pixelwizard.training.training_log import Table
from pixelwizard.training.velocity import VelocityModule

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
        self.table = Table(Path(config.run_dir) / "samples.csv", COLUMNS)
        size = config.resolution
        self.is_anchor = config.part == "anchor"
        self.size = size.anchor_geometry if self.is_anchor else size.geometry

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
    def make(self, step: int, module: VelocityModule) -> None:
        """Sample, write, score and log."""
        count = min(self.config.samples.count, self.source.size(0))
        examples = module.encoded(self.source.batch(range(count), random.Random("samples")))
        module.average.eval()
        latents = [self._sampled(module, examples, row) for row in range(count)]
        module.average.train()
        if self.is_first:
            self._keep(step, module, latents, examples["caption"])

    def _keep(
        self, step: int, module: VelocityModule, latents: list[Tensor], texts: list[str]
    ) -> None:
        vae = load_vae(self.config.backbone, module.device, module.encoding.dtype)
        folder = self.folder / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        captions = {}
        for row, (latent, text) in enumerate(zip(latents, texts, strict=True)):
            path = folder / f"{row:02d}.mp4"
            self._write(path, vae, latent)
            captions[path.stem] = text
            self.tracker.sample(path, text, step)
        if self.config.metrics.enabled and self.size.frames >= SCORED_FRAMES:
            self._score(step, sorted(folder.glob("*.mp4")), captions)

    def _sampled(self, module: VelocityModule, examples: Batch, row: int) -> Tensor:
        """The latent of one example."""
        size, network = self.config.resolution, module.average
        sampler = self.config.anchor if self.is_anchor else self.config.schedule
        schedule = make_schedule(sampler, size.anchor_shift if self.is_anchor else size.shift)
        shape = (self.config.backbone.dit.in_dim, *self.size.latent_grid)
        noise = initial_noise(shape, row).to(module.device)
        texts = [examples[name][row].to(module.device) for name in ("text", "empty")]
        half = self.config.trainer.precision == "bf16-mixed"
        with torch.autocast(module.device.type, torch.bfloat16, enabled=half):
            if self.is_anchor:
                return Anchor(network, schedule, sampler.guidance)(noise, *texts)  # type: ignore[arg-type]
            condition = examples["condition"][row].float().to(module.device)
            return Detail(network, schedule, sampler.guidance)(noise, condition, *texts)  # type: ignore[arg-type]

    def _write(self, path: Path, vae: WanVAE, latent: Tensor) -> None:
        with VideoWriter(path, self.size.width, self.size.height, VideoSettings()) as writer:
            for frames in Decode(vae)(latent):
                writer.write(frames)

    def _score(self, step: int, videos: list[Path], captions: dict[str, str]) -> None:
        from pixelwizard.evaluation.evaluate import Evaluation  # with its networks' libraries

        settings = decided(self.config.metrics, self.config.backbone.name)
        scores = Evaluation(videos, captions, settings).run().scores
        self.table.add(
            {
                **{"step": step, "score": score.name, "value": f"{score.value:.6g}"},
                **{"low": f"{score.low:.6g}", "high": f"{score.high:.6g}", "recipe": score.recipe},
            }
            for score in scores
        )
        self.tracker.training({f"samples/{score.name}": score.value for score in scores}, step)
