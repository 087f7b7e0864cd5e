"""The stages as Lightning predict loops: each loads its networks and turns jobs into results."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.geometry import Geometry
from pixelwizard.diffusion.sampling import SolverState, add_noise, initial_noise
from pixelwizard.diffusion.schedules import Schedule, make_schedule
from pixelwizard.generation.placement import ModelLoader
from pixelwizard.io.process import PeakMemory
from pixelwizard.io.store import Store
from pixelwizard.io.terminal import Display
from pixelwizard.io.video import Sound, VideoError, VideoWriter
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.weights import load_anchor, load_detail, load_text_encoder, load_vae
from pixelwizard.parallel.mesh import ALONE, Group
from pixelwizard.records.provenance import Job
from pixelwizard.records.run_folder import WorkStopped, is_lost_rank, sentence
from pixelwizard.stages.decode import Decode, decode_dtype
from pixelwizard.stages.latents import Anchor, Detail, EncodeText

if TYPE_CHECKING:
    from pixelwizard.data.source_files import Source


class NotFinite(RuntimeError):
    """A latent that cannot be used; all ranks of its prompt see it."""


@dataclass
class Result:
    """Tensors of a job by kind and key, or why there are none.

    ``seconds`` include those of interrupted runs. ``facts`` are other plain values to be recorded.
    """

    tensors: dict[tuple[str, str], Mapping[str, Tensor]] = field(default_factory=dict)
    error: Exception | None = None
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class StageLoop(LightningModule, ABC):
    """One stage over jobs: subclasses load in ``load`` and work in ``predict_step``.

    ``take(loop, job, result)`` receives the results of the first ``kept`` jobs; another rank keeps
    those of the others. ``skipped`` are the steps that the latest job skipped.
    """

    name = ""

    def __init__(
        self,
        config: GenerateConfig,
        store: Store,
        display: Display,
        networks: ModelLoader,
        take: Callable[[StageLoop, Job, Result], None],
    ) -> None:
        super().__init__()
        self.config, self.store, self.display, self.networks = config, store, display, networks
        self.take, self.kept = take, 0
        self.rank = networks.rank
        self.stage: Any = None
        self.memory: PeakMemory | None = None
        self.skipped: tuple[int, ...] = ()
        self.loading_seconds = self.earlier_seconds = 0.0

    @property
    def group(self) -> Group:
        """The ranks that compute together; here the lead of each prompt alone."""
        return ALONE

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The stage with its networks on ``device`` in ``dtype``."""

    @abstractmethod
    def predict_step(self, job: Job, batch_idx: int = 0) -> Result:
        """The results of one job."""

    def configure_model(self) -> None:
        """Load the networks; an error here ends the run."""
        self.memory = PeakMemory()
        started = time.perf_counter()
        device = self.trainer.strategy.root_device
        self.stage = self.load(device, getattr(torch, self.config.backbone.dtype))
        self.loading_seconds = time.perf_counter() - started

    def close(self) -> None:
        """Let go of the networks, which are those of one group of jobs."""
        self.stage = None
        if self.memory is not None:
            self.memory.stop()

    def on_predict_batch_start(self, batch: Job, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.display.begin(batch.id, batch.prompt.title)

    def on_predict_batch_end(
        self, outputs: Any, batch: Job, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.display.end()
        if batch_idx < self.kept:
            self.take(self, batch, outputs)

    def transfer_batch_to_device(
        self, batch: Job, device: torch.device, dataloader_idx: int
    ) -> Job:
        """Jobs are plain values."""
        return batch

    @contextmanager
    def attempt(self, job: Job) -> Iterator[Result]:
        """The result of one job, to be filled.

        An error fails its job alone, unless other ranks of the ``group`` wait for this one. They do
        not wait if all of them see the error, or if only the file of a video fails.
        """
        result, started, self.earlier_seconds = Result(), time.perf_counter(), 0.0
        try:
            yield result
            result.seconds = self.earlier_seconds + time.perf_counter() - started
        except Exception as error:
            if self.group.size > 1 and not isinstance(error, (VideoError, NotFinite)):
                if is_lost_rank(error):
                    raise
                why = f"prompt {job.id} failed: {self.name}: {sentence(error)}"
                raise WorkStopped(why) from error
            result.error = error


class EncodeTextLoop(StageLoop):
    """The embeddings of a job's texts that are not in the store yet."""

    name = "text"

    def load(self, device: torch.device, dtype: torch.dtype) -> EncodeText:
        return EncodeText(self.networks.load(self.name, load_text_encoder, device, dtype))

    def predict_step(self, job: Job, batch_idx: int = 0) -> Result:
        texts = {job.text_key: job.prompt.text, job.negative_key: job.prompt.negative_prompt}
        with self.attempt(job) as result:
            for remark in self.stage.remarks(job.prompt.text):
                self.display.say(f"prompt {job.id}: {remark}")
            for key, text in texts.items():
                if not self.store.has("text", key):
                    result.tensors["text", key] = {"embedding": self.stage(text)}
        return result


class SamplingLoop(StageLoop):
    """A stage that integrates from noise; it continues where an earlier run stopped."""

    state_seconds = 0.0  # the state is saved after every step

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

    def first_frame(self, job: Job) -> Tensor | None:
        """The latent [C, 1, h, w] of the picture that this stage begins with, if there is one."""
        if job.prompt.clip or self.name not in job.encoded:
            return None
        return self.store.load("encode", job.encode_key)[self.name].to(self.device)

    def resume(self, key: str) -> SolverState | None:
        """The state that an interrupted run left for this result.

        The lead of the ranks of a prompt reads it for all; ranks whose passes are bound to those of
        other prompts continue only where all are at the same step.
        """
        kind, found = f"{self.name}_state", None
        if self.rank.is_lead and (tensors := self.store.find(kind, key)) is not None:
            found = tensors, (self.store.facts(kind, key) or {}).get("seconds", 0.0)
        found = self.rank.prompt.from_first(found)
        steps = self.group.gather(found and int(found[0]["step"]))
        if found is None or len(set(steps)) > 1:
            return None
        tensors, self.earlier_seconds = found
        return SolverState.from_tensors({n: t.to(self.device) for n, t in tensors.items()})

    def keep(
        self, key: str, state: SolverState | None, schedule: Schedule
    ) -> Callable[[SolverState], None]:
        """A function that shows every step, saves the state for a later run and refuses NaN.

        A loop that is bound to the passes of other prompts refuses it only after the last step.
        """
        first, started = state.step if state else 0, time.monotonic()
        saved, bound = started, self.group is not self.rank.prompt

        def on_step(state: SolverState) -> None:
            nonlocal saved
            now, steps, self.skipped = time.monotonic(), len(schedule.steps), state.skipped
            last, finite = state.step == steps, bool(torch.isfinite(state.latent).all())
            if not finite and (last or not bound):
                raise NotFinite(f"the latent is not finite after step {state.step} of {steps}")
            due = finite and not last and now - saved >= self.state_seconds
            if due and self.rank.is_lead:
                seconds = self.earlier_seconds + now - started
                self.store.save(f"{self.name}_state", key, state.to_tensors(), {"seconds": seconds})
                saved = now
            self.display.step(state.step, steps, first)

        return on_step


class AnchorLoop(SamplingLoop):
    """The low-resolution latent of every job."""

    name = "anchor"
    state_seconds = 5.0  # its steps are short

    def load(self, device: torch.device, dtype: torch.dtype) -> Anchor:
        schedule = make_schedule(self.config.anchor, self.config.resolution.anchor_shift, "anchor")
        network = self.networks.load(self.name, load_anchor, device, dtype)
        return Anchor(network, schedule, self.config.anchor.guidance, self.rank.cfg)

    def predict_step(self, job: Job, batch_idx: int = 0) -> Result:
        with self.attempt(job) as result:
            state = self.resume(job.anchor_key)
            latent = self.stage(
                self.noise(job.size.anchor_geometry, job.prompt.anchor_seed),
                *self.texts(job),
                state=state,
                on_step=self.keep(job.anchor_key, state, self.stage.schedule),
                first_frame=self.first_frame(job),
            )
            result.tensors["anchor", job.anchor_key] = {"latent": latent}
        return result


class DetailLoop(SamplingLoop):
    """The high-resolution latent of every job."""

    name = "detail"

    def load(self, device: torch.device, dtype: torch.dtype) -> ShortcutDiT:
        return self.networks.load(self.name, load_detail, device, dtype)

    def predict_step(self, job: Job, batch_idx: int = 0) -> Result:
        with self.attempt(job) as result:
            state, stage = self.resume(job.detail_key), self.stage_for(job)
            latent = stage(
                self.start(job, stage.schedule),
                self.anchor(job),
                *self.texts(job),
                state=state,
                on_step=self.keep(job.detail_key, state, stage.schedule),
                first_frame=self.first_frame(job),
            )
            result.tensors["detail", job.detail_key] = {"latent": latent}
        return result

    def stage_for(self, job: Job) -> Detail:
        """A clip that is long goes through in windows of the run's length."""
        settings, size = self.config.schedule, self.config.resolution
        start = self.config.refine.sigma if "start" in job.encoded else None
        schedule = make_schedule(settings, size.shift, start=start)
        window = size.geometry.latent_grid[0]
        return Detail(self.stage, schedule, settings.guidance, self.rank.cfg, window)

    def start(self, job: Job, schedule: Schedule) -> Tensor:
        """Noise, or the enlarged clip with noise of the level of the schedule's first step."""
        noise = self.noise(job.size.geometry, job.prompt.detail_seed)
        if "start" not in job.encoded:
            return noise
        clip = self.store.load("encode", job.encode_key)["start"].to(self.device)
        return add_noise(clip, noise, schedule.sigmas[0])

    def anchor(self, job: Job) -> Tensor:
        """The anchor's latent; that of a clip with the noise that ``refine`` asks for."""
        kind, key, name = job.anchor
        latent = self.store.load(kind, key)[name].to(self.device)
        level = 0.0 if job.anchor_key else self.config.refine.anchor_noise
        if not level:
            return latent
        return latent + level * initial_noise(latent.shape, job.prompt.anchor_seed, self.device)


class DecodeLoop(StageLoop):
    """Every job's video, and its anchor's if wanted; what ``comment`` says of a job goes in it."""

    name = "decode"
    comment: Callable[[Job], str]

    @property
    def group(self) -> Group:
        """The ranks of a prompt, with a part of every clip each."""
        return self.rank.prompt

    def load(self, device: torch.device, dtype: torch.dtype) -> Decode:
        vae = self.networks.load(self.name, load_vae, device, decode_dtype(self.config))
        timed = self.config.trainer.arguments.get("benchmark", True)
        return Decode(vae, self.networks.tiles, self.group.peers(), timed)

    def predict_step(self, job: Job, batch_idx: int = 0) -> Result:
        size, suffix = job.size, self.config.video.suffix
        place = "detail", job.detail_key, "latent"
        videos = [(f"{job.id}{suffix}", size.geometry, place)]
        if self.config.save_anchor:
            videos.insert(0, (f"{job.id}.anchor{suffix}", size.anchor_geometry, job.anchor))
        with self.attempt(job) as result:
            # All, as other ranks do.
            failures = [self._write(job, result, *video) for video in videos]
            for failure in filter(None, failures):
                raise failure
        return result

    def _write(
        self, job: Job, result: Result, name: str, size: Geometry, place: tuple[str, str, str]
    ) -> VideoError | None:
        """One video, if this is the rank that writes; or why there is none."""
        kind, key, tensor = place
        made = self.stage(self.store.load(kind, key)[tensor])
        if not self.rank.is_lead:
            deque(made, maxlen=0)  # this rank takes its part and is given nothing
            return None
        clip, path = job.prompt.clip, Path(self.config.run_dir) / "videos" / name
        form = path, size.width, size.height, self.config.video, self.comment(job)
        try:
            with VideoWriter(*form, clip.fps if clip else None, self._sound(job)) as writer:
                shown: Iterator[Any] = islice(made, job.frames)
                if clip and kind == "detail":
                    shown = self._agreeing(shown, job, clip, result)
                for frames in shown:
                    writer.write(frames)
                    self.display.step(writer.frames, job.frames)
                deque(made, maxlen=0)  # frames that only fill up the latent's last one
        except VideoError as error:
            deque(made, maxlen=0)  # the other ranks decode to the end
            return VideoError(
                f"{error}; its latent is kept in {self.store.path(kind, key)}: the same command"
                " decodes it again, and so does one with another run_dir and video.codec"
            )
        return None

    def _agreeing(
        self, shown: Iterator[Any], job: Job, clip: Source, result: Result
    ) -> Iterator[Any]:
        """The frames with what they take of the clip; what it decides itself is said and noted."""
        from pixelwizard.stages.agree import agreeing, agreement_of

        agree: str = self.config.refine.agree
        if agree == "auto":
            agree, sharpness = agreement_of(clip, job.size.geometry)
            result.facts |= {"agree": agree, "sharpness": round(sharpness, 3)}
            self.display.say(
                f"prompt {job.id}: {clip.path.name} has a sharpness of {sharpness:.2f}, so it is"
                f" refined with refine.agree={agree}"
            )
        return agreeing(shown, clip, job.size, agree)

    def _sound(self, job: Job) -> Sound | None:
        """The sound of a clip that is refined."""
        sound = job.prompt.clip.track if job.prompt.clip else None
        if sound and not sound.is_copied(self.config.video.suffix):
            self.display.say(f"prompt {job.id}: its sound, {sound.codec}, becomes AAC")
        return sound
