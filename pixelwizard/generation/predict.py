"""Four predict loops, one per stage, over groups of prompts, by one Lightning Trainer.

A stage's networks are loaded for one group only, so the peak memory is that of the largest stage.
Every result goes to the store, so an interrupted run continues.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import SCORED_FRAMES
from pixelwizard.config.trainer import culprit, lightning_trainer, own_callbacks
from pixelwizard.diffusion.schedules import as_taken
from pixelwizard.generation.contact_sheet import remove_contact_sheets, write_contact_sheets
from pixelwizard.generation.loops import (
    AnchorLoop,
    DecodeLoop,
    DetailLoop,
    EncodeTextLoop,
    Result,
    SamplingLoop,
    StageLoop,
)
from pixelwizard.generation.placement import ModelLoader, device_name, plan_of
from pixelwizard.io.files import write_json
from pixelwizard.io.store import Store
from pixelwizard.io.terminal import Display, reason, silence_lightning
from pixelwizard.io.video import check_ffmpeg
from pixelwizard.models.weights import check_weights
from pixelwizard.parallel.mesh import MeshStrategy, Rank, trainer_options
from pixelwizard.records.provenance import Job, Provenance, finished, written_files
from pixelwizard.records.run_folder import STATUS, Status, WorkStopped, sentence

if TYPE_CHECKING:
    from pixelwizard.tracking import Tracker

log = logging.getLogger(__name__)


class Prediction:
    """The unfinished part of a run, and the context in which a trainer completes it.

    ``records`` are those of finished videos by prompt id, None for the others.
    """

    def __init__(
        self,
        config: GenerateConfig,
        jobs: Sequence[Job],
        digests: Mapping[str, str],
        records: Mapping[str, dict[str, Any] | None],
        rank: Rank | None,
    ) -> None:
        self.config, self.rank = config, rank or Rank()
        silence_lightning()
        check_ffmpeg(config.video)
        if config.scored:
            from pixelwizard.generation.scoring import check_reference

            check_reference(config)
        if self.rank.is_first:
            check_weights(config.backbone, config.anchor)
        self.folder, self.jobs = Path(config.run_dir), {job.id: job for job in jobs}
        self.display = Display(list(self.jobs), None if self.rank.is_first else io.StringIO())
        plan = self.rank.everyone.from_first(plan_of(config, self.rank, jobs))
        self.networks = ModelLoader(config, plan, self.rank)
        self.store = Store(config.store.dir, self.display.say)
        self.provenance = Provenance(config, digests, device_name())
        self.records, self.callbacks = records, own_callbacks(config)
        self.earlier = {k for job in jobs for k in job.results if self.store.has(*k)}
        self.stages = stages_of(jobs)
        (self.folder / "videos").mkdir(parents=True, exist_ok=True)
        self.status = Status(self.folder / STATUS if self.rank.is_first else None, self.jobs)
        self.status.done(*(id for id, record in records.items() if record))
        self.tracker: Tracker | None = None
        self.sheet: Path | None = None
        self.elsewhere: list[list[str]] = []

    def __enter__(self) -> Prediction:
        if self.rank.is_first and self.config.tracker.records:
            from pixelwizard.tracking.fallback import FallbackTracker

            self.tracker = FallbackTracker(self.config, self.display.say)
            for id, record in self.records.items():
                if record:
                    self.tracker.earlier(self._video_of(id), record)
        self.trainer: Trainer = lightning_trainer(
            precision="32-true",
            logger=list(self.tracker.loggers if self.tracker else ()) or False,
            callbacks=list(self.callbacks.values()),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.config.run_dir,
            **self.config.trainer.keywords(self.config.run_dir),
            **trainer_options(self.rank, self.rank.bound),
        )
        profiler = vars(self.trainer)["profiler"]
        # described once, not after every loop
        self._describe, profiler.describe = profiler.describe, lambda: None
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._describe()
        self.status.close()
        if self.tracker:
            self.tracker.finish(self.sheet)
        self.display.close()
        if isinstance(error, Exception) and (name := culprit(error, self.callbacks)):
            raise WorkStopped(f"callbacks.{name} failed ({reason(error)})") from error

    def loops(self) -> Iterator[tuple[StageLoop, DataLoader[Job]]]:
        """Every stage of every group of prompts with its jobs, each when its turn has come.

        Ranks that are bound to each other get the same loops.
        """
        left = [id for id, record in self.records.items() if not record]
        todo = left[: self.config.trainer.limited(len(left))]
        if len(todo) < len(left):
            self.display.say(f"trainer makes {len(todo)} of {len(left)} prompts; the others wait")
        if todo and self.rank.is_first:
            remove_contact_sheets(self.folder)
        own, sets = self.rank.own(todo), self.rank.mesh.prompts
        others = [n for n in range(sets) if self.rank.is_first and n != self.rank.place.prompts]
        self.elsewhere = [todo[n::sets][::-1] for n in others]
        counts = [self._needs(id, self.store.has) for id in own]
        self.display.plan({s.name: sum(s.name in c for c in counts) for s in self.stages})
        rounds = list(groups(own, self.config.group_size))
        most = len(list(groups(todo[::sets], self.config.group_size)))
        for group in [*rounds, *([[]] * (most - len(rounds)))]:
            needs = {id: self._needs(id, self.store.find) for id in group if self.rank.is_lead}
            for stage in self.stages:
                yield from self._loop(stage, needs)

    def _loop(
        self, stage: type[StageLoop], needs: Mapping[str, set[str]]
    ) -> Iterator[tuple[StageLoop, DataLoader[Job]]]:
        """One stage over the prompts of a group that need it, if any."""
        loop = stage(self.config, self.store, self.display, self.networks, self._take)
        if isinstance(loop, DecodeLoop):
            loop.comment = lambda job: json.dumps(self.provenance.of(job), ensure_ascii=False)
        failed = self.status.failed
        own = [id for id, names in needs.items() if loop.name in names and id not in failed]
        ids, kept = self.rank.share(own, loop.group)
        if ids and (loop.group.size > 1 or self.rank.is_lead):
            loop.kept = kept if self.rank.is_lead else 0
            self.display.enter(loop.name, len(ids))
            if isinstance(self.trainer.strategy, MeshStrategy):
                self.trainer.strategy.group = loop.group
            try:
                yield loop, DataLoader([self.jobs[id] for id in ids], None)  # type: ignore[arg-type]
            finally:
                loop.close()
        self.rank.bound.barrier()

    def _needs(self, id: str, there: Callable[[str, str], Any]) -> set[str]:
        """The stages whose results are missing on the way to a job's video."""
        job, needs = self.jobs[id], {"decode"}
        if not there("detail", job.detail_key):
            needs.add("detail")
        if "detail" in needs or self.config.save_anchor:
            kind, key, _ = job.anchor
            if not there(kind, key):
                needs.add(kind)
        if needs & {"anchor", "detail"}:
            if not all(there("text", k) for k in (job.text_key, job.negative_key)):
                needs.add("text")
            if job.encode_key and not there("encode", job.encode_key):
                needs.add("encode")
        return needs

    def _take(self, loop: StageLoop, job: Job, result: Result) -> None:
        """Store what a stage made of a job with its cost, or note why it failed."""
        if result.error is not None:
            log.error("%s of %s failed", loop.name, job.id, exc_info=result.error)
            self.status.fail(job.id, f"{loop.name}: {sentence(result.error)}")
            return
        assert loop.memory is not None
        cost = {
            "seconds": round(result.seconds, 3),
            "loading_seconds": round(loop.loading_seconds, 3),
            "peak_gb": round(loop.memory.gb(), 3),
            **result.facts,
        }
        planned = self.networks.planned_gb(loop.name)
        if planned is not None:
            cost["planned_gb"] = planned
            log.info("%s: peak %.3f GB, planned %.3f", loop.name, cost["peak_gb"], planned)
        for (kind, key), tensors in result.tensors.items():
            skipped = {"skipped": list(loop.skipped)} if loop.skipped else {}
            self.store.save(kind, key, tensors, {**cost, **skipped, **self._means(loop)})
            self.store.remove(f"{kind}_state", key)
        if self.tracker:
            self.tracker.stage(job.id, loop.name, cost)
        if loop.name == "decode":
            self._publish(job, cost)

    def _means(self, loop: StageLoop) -> dict[str, Any]:
        """The chunk of a transformer, and what computed its attentions where there was a choice."""
        if not isinstance(loop, SamplingLoop):
            return {}
        name = self.networks.attention.kernel
        return {"chunk": self.networks.chunk(loop.name), **({"attention": name} if name else {})}

    def _publish(self, job: Job, decode_cost: dict[str, float]) -> None:
        """The video is written: write its provenance, then mark the job done."""
        stages: dict[str, dict[str, Any]] = {
            name: {**facts, "reused": (name, key) in self.earlier}
            for name, key in job.results
            if (facts := self.store.facts(name, key)) is not None
        }
        tiles = self.networks.tiles
        dtype = self.config.decode.dtype or self.config.backbone.dtype
        shape = [tiles.rows, tiles.columns]
        stages["decode"] = {**decode_cost, "tiles": shape, "dtype": dtype}
        files = written_files(self.config, job.id)
        record = {**self.provenance.of(job), "stages": stages, "files": files}
        for name in ("anchor", "detail"):
            if name in stages:
                record[name] = as_taken(record[name], stages[name].pop("skipped", []))
        write_json(self.folder / "videos" / f"{job.id}.json", record)
        self._announce(job.id, record)
        for ids in self.elsewhere:  # what other prompts' ranks have finished meanwhile
            while ids and (other := finished(self.config, self.jobs[ids[-1]])):
                self._announce(ids.pop(), other)

    def _announce(self, id: str, record: dict[str, Any]) -> None:
        self.status.done(id)
        if self.tracker:
            self.tracker.video(self._video_of(id), record)
        self.display.say(f"video {self._video_of(id)}")

    def complete(self, videos: Mapping[str, Path]) -> dict[str, str]:
        """Collect the results of all ranks, then write the sheet and score; why prompts failed."""
        for failed in self.rank.everyone.gather(self.status.failed):
            for id, why in failed.items():
                self.status.fail(id, why)
        for id in self.status.ids("pending"):
            if record := finished(self.config, self.jobs[id]):
                self._announce(id, record)
        made = {id: videos[id] for id in self.status.ids("done")}
        if self.rank.is_first:
            prompts = {id: self.jobs[id].prompt for id in made}
            rows = [(prompts[id].title, path, prompts[id].source) for id, path in made.items()]
            self.sheet = write_contact_sheets(self.folder, rows)
            self._score(made)
        return self.status.failed

    def _score(self, videos: Mapping[str, Path]) -> None:
        if videos and self.config.scored:
            from pixelwizard.generation.scoring import score_run

            score_run(self.config, videos, self.tracker, self.display)
        elif videos and self.config.metrics.enabled:
            self.display.say(
                f"no scores: videos under {SCORED_FRAMES} frames are scored with metrics=real"
            )

    def _video_of(self, id: str) -> Path:
        return self.folder / "videos" / f"{id}{self.config.video.suffix}"


def stages_of(jobs: Sequence[Job]) -> tuple[type[StageLoop], ...]:
    """The stages of a run in their order; only given clips and pictures are encoded."""
    if not any(job.encode_key for job in jobs):
        return EncodeTextLoop, AnchorLoop, DetailLoop, DecodeLoop
    from pixelwizard.generation.encoding import EncodeLoop

    return EncodeTextLoop, EncodeLoop, AnchorLoop, DetailLoop, DecodeLoop


def groups(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """One prompt alone, so its video comes early, then ``size`` at a time."""
    if ids:
        yield ids[:1]
    for start in range(1, len(ids), size):
        yield ids[start : start + size]
