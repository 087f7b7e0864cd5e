"""The stages as Lightning predict loops: each loads its networks and turns jobs into results."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.geometry import Geometry
from pixelwizard.diffusion.flow import initial_noise
from pixelwizard.diffusion.sampling import SolverState
from pixelwizard.diffusion.schedules import Schedule, make_schedule
from pixelwizard.generation.placement import Networks
from pixelwizard.io.progress import Display
from pixelwizard.io.video import VideoError, VideoWriter
from pixelwizard.models.shortcut.weights import load_detail
from pixelwizard.models.wan.weights import load_anchor, load_text_encoder, load_vae
from pixelwizard.parallel.mesh import ALONE, Group
from pixelwizard.planning.decode_cost import precision
from pixelwizard.records.failures import OUT_OF_MEMORY, PromptFailed, is_lost_rank, is_out_of_memory
from pixelwizard.records.jobs import Job
from pixelwizard.records.store import Store
from pixelwizard.stages.anchor import Anchor
from pixelwizard.stages.decode import Decode
from pixelwizard.stages.detail import Detail
from pixelwizard.stages.encode_text import EncodeText

ANCHOR_STATE_SECONDS = 5.0
"""Anchor steps are short: their state is saved this often; that of the detail after every step."""


@dataclass(frozen=True)
class Artifact:
    """Tensors to be stored under ``kind`` and ``key``."""

    kind: str
    key: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Done:
    """What a stage made of a job; ``seconds`` include those of interrupted runs."""

    artifacts: tuple[Artifact, ...]
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The job cannot go on."""

    error: Exception


class StageLoop(LightningModule, ABC):
    """One stage over jobs: subclasses load in ``load`` and work in ``compute``.

    An exception in ``compute`` concerns its job alone, unless other ranks of the loop's ``group``
    wait for this one, which they do not where only the file of a video fails; one in ``load`` ends
    the run.
    """

    name = ""

    def __init__(
        self, config: GenerateConfig, store: Store, display: Display, networks: Networks
    ) -> None:
        super().__init__()
        self.config, self.store, self.display, self.networks = config, store, display, networks
        self.rank = networks.rank
        self.stage: Any = None
        self.loading_seconds = 0.0
        self.earlier_seconds = 0.0

    def configure_model(self) -> None:
        """Load the networks, once."""
        if self.stage is not None:
            return
        started = time.perf_counter()
        device = self.trainer.strategy.root_device
        self.stage = self.load(device, getattr(torch, self.config.backbone.dtype))
        self.loading_seconds = time.perf_counter() - started

    @property
    def group(self) -> Group:
        """The ranks that compute together; here the lead of each prompt alone."""
        return ALONE

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The stage with its networks on ``device`` in ``dtype``."""

    @abstractmethod
    def compute(self, job: Job) -> tuple[Artifact, ...]:
        """The results of one job."""

    def transfer_batch_to_device(
        self, batch: Job, device: torch.device, dataloader_idx: int
    ) -> Job:
        """Jobs are plain values."""
        return batch

    def predict_step(self, job: Job, batch_idx: int) -> Done | Failed:
        """One job; nothing but a wish to stop gets out of here."""
        started, self.earlier_seconds = time.perf_counter(), 0.0
        try:
            artifacts = self.compute(job)
            return Done(artifacts, self.earlier_seconds + time.perf_counter() - started)
        except Exception as error:
            if self.group.size == 1 or isinstance(error, VideoError):
                return Failed(error)
            if is_lost_rank(error):
                raise
            raise PromptFailed(f"prompt {job.id} failed: {self.name}: {sentence(error)}") from error


def sentence(error: Exception) -> str:
    """What an error says, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{OUT_OF_MEMORY}: {text}" if is_out_of_memory(error) else text


class EncodeTextLoop(StageLoop):
    """The embeddings of a job's texts that are not in the store yet."""

    name = "text"

    def load(self, device: torch.device, dtype: torch.dtype) -> EncodeText:
        return EncodeText(self.networks.load(self.name, load_text_encoder, device, dtype))

    def compute(self, job: Job) -> tuple[Artifact, ...]:
        texts = {job.text_key: job.prompt.text, job.negative_key: job.prompt.negative_prompt}
        for remark in self.stage.remarks(job.prompt.text):
            self.display.line(f"prompt {job.id}: {remark}")
        return tuple(
            Artifact("text", key, {"embedding": self.stage(text)})
            for key, text in texts.items()
            if not self.store.has("text", key)
        )


class SamplingLoop(StageLoop):
    """A stage that integrates from noise; it continues where an earlier run stopped."""

    state_seconds = 0.0

    @property
    def group(self) -> Group:
        """The ranks that make every pass together."""
        return self.rank.bound

    def noise(self, geometry: Geometry, seed: int) -> Tensor:
        """Float32 CTHW, by the seed alone."""
        channels = self.config.backbone.dit.in_dim
        return initial_noise((channels, *geometry.latent_grid), seed, self.device)

    def texts(self, job: Job) -> tuple[Tensor, Tensor]:
        """The embeddings of prompt and negative prompt."""
        keys = (job.text_key, job.negative_key)
        first, second = (self.store.load("text", key)["embedding"].to(self.device) for key in keys)
        return first, second

    def resume(self, key: str) -> SolverState | None:
        """The state that an interrupted run left for this result.

        The lead of the ranks of a prompt reads it for all; ranks whose passes are bound to those of
        other prompts continue only where all are at the same step.
        """
        kind, found = f"{self.name}_state", None
        if self.rank.is_lead and self.store.has(kind, key):
            found = self.store.load(kind, key), self.store.facts(kind, key)["seconds"]
        found = self.rank.prompt.from_first(found)
        steps = self.group.gather(found and int(found[0]["step"]))
        if found is None or len(set(steps)) > 1:
            return None
        tensors, self.earlier_seconds = found
        return SolverState.from_tensors({n: t.to(self.device) for n, t in tensors.items()})

    def keep(
        self, key: str, state: SolverState | None, schedule: Schedule
    ) -> Callable[[SolverState], None]:
        """A function that shows every step and keeps the state for a later run."""
        first, started = state.step if state else 0, time.monotonic()
        saved = started

        def on_step(state: SolverState) -> None:
            nonlocal saved
            now = time.monotonic()
            due = state.step < len(schedule.steps) and now - saved >= self.state_seconds
            if due and self.rank.is_lead:
                seconds = self.earlier_seconds + now - started
                self.store.save(f"{self.name}_state", key, state.to_tensors(), {"seconds": seconds})
                saved = now
            self.display.step(state.step, len(schedule.steps), first)

        return on_step


class AnchorLoop(SamplingLoop):
    """The low-resolution latent of every job."""

    name = "anchor"
    state_seconds = ANCHOR_STATE_SECONDS

    def load(self, device: torch.device, dtype: torch.dtype) -> Anchor:
        schedule = make_schedule(self.config.anchor, self.config.resolution.anchor_shift, "anchor")
        network = self.networks.load(self.name, load_anchor, device, dtype)
        return Anchor(network, schedule, self.config.anchor.guidance, self.rank.halves)

    def compute(self, job: Job) -> tuple[Artifact, ...]:
        state = self.resume(job.anchor_key)
        latent = self.stage(
            self.noise(self.config.resolution.anchor_geometry, job.prompt.anchor_seed),
            *self.texts(job),
            state=state,
            on_step=self.keep(job.anchor_key, state, self.stage.schedule),
        )
        return (Artifact("anchor", job.anchor_key, {"latent": latent}),)


class DetailLoop(SamplingLoop):
    """The high-resolution latent of every job."""

    name = "detail"

    def load(self, device: torch.device, dtype: torch.dtype) -> Detail:
        schedule = make_schedule(self.config.schedule, self.config.resolution.shift)
        network = self.networks.load(self.name, load_detail, device, dtype)
        return Detail(network, schedule, self.config.schedule.guidance, self.rank.halves)

    def compute(self, job: Job) -> tuple[Artifact, ...]:
        state = self.resume(job.detail_key)
        latent = self.stage(
            self.noise(self.config.resolution.geometry, job.prompt.detail_seed),
            self.store.load("anchor", job.anchor_key)["latent"].to(self.device),
            *self.texts(job),
            state=state,
            on_step=self.keep(job.detail_key, state, self.stage.schedule),
        )
        return (Artifact("detail", job.detail_key, {"latent": latent}),)


class DecodeLoop(StageLoop):
    """Every job's video, and its anchor's if wanted; ``comments``, by id, go into the files."""

    name = "decode"

    def __init__(
        self,
        config: GenerateConfig,
        store: Store,
        display: Display,
        networks: Networks,
        folder: Path,
        comments: Mapping[str, str],
    ) -> None:
        super().__init__(config, store, display, networks)
        self.folder, self.comments = folder, comments

    @property
    def group(self) -> Group:
        """The ranks of a prompt, with a part of every clip each."""
        return self.rank.prompt

    def load(self, device: torch.device, dtype: torch.dtype) -> Decode:
        vae = self.networks.load(self.name, load_vae, device, precision(self.config))
        return Decode(vae, self.networks.tiles, self.group.peers())

    def compute(self, job: Job) -> tuple[Artifact, ...]:
        size, suffix = self.config.resolution, self.config.video.suffix
        videos = [(f"{job.id}{suffix}", size.geometry, "detail", job.detail_key)]
        if self.config.save_anchor:
            name = f"{job.id}.anchor{suffix}"
            videos.insert(0, (name, size.anchor_geometry, "anchor", job.anchor_key))
        failures = [self._write(job, *video) for video in videos]  # all, as other ranks do
        for failure in filter(None, failures):
            raise failure
        return ()

    def _write(self, job: Job, name: str, size: Geometry, kind: str, key: str) -> VideoError | None:
        """One video, if this is the rank that writes; or why there is none."""
        made = self.stage(self.store.load(kind, key)["latent"])
        if not self.rank.is_lead:
            deque(made, maxlen=0)  # this rank takes its part and is given nothing
            return None
        path, video, comment = self.folder / name, self.config.video, self.comments[job.id]
        try:
            with VideoWriter(path, size.width, size.height, video, comment) as writer:
                for frames in made:
                    writer.write(frames)
                    self.display.step(writer.frames, size.frames)
        except VideoError as error:
            deque(made, maxlen=0)  # the other ranks decode to the end
            return VideoError(
                f"{error}; its latent is kept in {self.store.path(kind, key)}: the same command"
                " decodes it again, and so does one with another run_dir and video.codec"
            )
        return None
