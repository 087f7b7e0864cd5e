"""The last stage as a predict loop: latents become the videos of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pixelwizard.config.geometry import Geometry
from pixelwizard.generation.loops import Result, StageLoop
from pixelwizard.io.video import Sound, VideoError, VideoWriter
from pixelwizard.models.weights import load_vae
from pixelwizard.parallel.mesh import Group
from pixelwizard.records.provenance import Job
from pixelwizard.stages.decode import Decode, decode_dtype

if TYPE_CHECKING:
    from pixelwizard.data.source_files import Source


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
            self.display.line(
                f"prompt {job.id}: {clip.path.name} has a sharpness of {sharpness:.2f}, so it is"
                f" refined with refine.agree={agree}"
            )
        return agreeing(shown, clip, job.size, agree)

    def _sound(self, job: Job) -> Sound | None:
        """The sound of a clip that is refined."""
        sound = job.prompt.clip.track if job.prompt.clip else None
        if sound and not sound.is_copied(self.config.video.suffix):
            self.display.line(f"prompt {job.id}: its sound, {sound.codec}, becomes AAC")
        return sound
