"""``generate``: four predict loops, one per stage, over groups of prompts.

Each stage's networks are there for their group alone, so the peak of memory is the largest stage;
every result goes to the store, so that an interrupted run continues and a finished one is instant.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.generation.callbacks import Keep, Progress
from pixelwizard.generation.contact_sheet import write_contact_sheet
from pixelwizard.generation.loops import (
    AnchorLoop,
    DecodeLoop,
    DetailLoop,
    EncodeTextLoop,
    StageLoop,
)
from pixelwizard.generation.placement import Networks, device_name, plan_of
from pixelwizard.generation.scoring import check_reference, score_run
from pixelwizard.io.files import write_json
from pixelwizard.io.progress import Display, silence_lightning
from pixelwizard.io.video import check_ffmpeg
from pixelwizard.parallel.mesh import Rank, trainer_options
from pixelwizard.records.jobs import Job
from pixelwizard.records.provenance import finished, record
from pixelwizard.records.status import Status
from pixelwizard.records.store import Store
from pixelwizard.tracking import open_tracker
from pixelwizard.tracking.base import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A run's folder, its videos by prompt id, and why the others failed."""

    folder: Path
    videos: dict[str, Path]
    failed: dict[str, str]


def generate(
    config: GenerateConfig,
    jobs: Sequence[Job],
    digests: Mapping[str, str],
    display: Display | None = None,
    rank: Rank | None = None,
) -> Outcome:
    """Make the video of every job in ``config.run_dir``; ``digests`` are those of the weights.

    Every ``rank`` of several calls this; the first keeps status, tracker and contact sheet.
    A failing prompt is named in the outcome and in status.json, the others go on. Raises ValueError
    where nothing can be done: no weights, a store that cannot be written.
    """
    silence_lightning()
    check_ffmpeg()
    check_reference(config)
    folder = Path(config.run_dir)
    rank = rank or Rank()
    display = display or Display(len(jobs), None if rank.is_first else io.StringIO())
    tracker = open_tracker(config, display.line) if rank.is_first else Tracker()
    run, sheet = _Run(config, jobs, digests, display, tracker, rank), None
    try:
        run.tell_earlier()
        run.all_groups()
        run.hear_others()
        outcome = run.outcome()
        if rank.is_first:
            if videos := outcome.videos:
                sheet = folder / "contact_sheet.png"
                rows = [(job.prompt.text, videos[job.id]) for job in jobs if job.id in videos]
                write_contact_sheet(sheet, rows)
            score_run(config, videos, tracker, display)
    finally:
        tracker.finish(sheet)
        display.close()
    return outcome


class _Run:
    """One call of ``generate``: what is left to do, and the doing of it."""

    def __init__(
        self,
        config: GenerateConfig,
        jobs: Sequence[Job],
        digests: Mapping[str, str],
        display: Display,
        tracker: Tracker,
        rank: Rank,
    ) -> None:
        self.config, self.jobs, self.digests, self.display = config, jobs, digests, display
        self.tracker, self.rank = tracker, rank
        self.networks = Networks(config, rank.everyone.from_first(plan_of(config, rank)), rank)
        self.videos = Path(config.run_dir) / "videos"
        self.videos.mkdir(parents=True, exist_ok=True)
        self.store = Store(config.store.dir)
        place = Path(config.run_dir) / "status.json" if rank.is_first else None
        self.status = Status(place, [job.id for job in jobs])
        self.status.done(*(job.id for job in jobs if finished(config, job)))
        self.earlier = {k for job in jobs for k in results(job) if self.store.has(*k)}
        self.records = {job.id: record(config, job, digests, device_name()) for job in jobs}

    def tell_earlier(self) -> None:
        """Tell the tracker of the videos that are there already."""
        for job in self.jobs:
            if finished(self.config, job):
                written = (self.videos / f"{job.id}.json").read_text(encoding="utf-8")
                self.tracker.earlier(self._video_of(job.id), json.loads(written))

    def all_groups(self) -> None:
        """Every stage of every group of prompts; the groups are independent."""
        left = [job.id for job in self.jobs if not finished(self.config, job)]
        left = self.rank.everyone.from_first(left)
        todo = [job for job in self.jobs if job.id in left]
        if todo and self.rank.is_first:
            (Path(self.config.run_dir) / "contact_sheet.png").unlink(missing_ok=True)
        own = self.rank.own(todo)
        counts = [self._needs(job) for job in own]
        self.display.plan(
            {s: sum(s in c for c in counts) for s in ("text", "anchor", "detail", "decode")}
        )
        rounds = list(groups(own, self.config.group_size))
        most = len(list(groups(todo[:: self.rank.mesh.prompts], self.config.group_size)))
        for group in [*rounds, *([[]] * (most - len(rounds)))]:
            for loop in self._loops():
                self._predict(loop, group)

    def _loops(self) -> Iterator[StageLoop]:
        parts = (self.config, self.store, self.display, self.networks)
        for stage in (EncodeTextLoop, AnchorLoop, DetailLoop):
            yield stage(*parts)
        comments = {id: json.dumps(r, ensure_ascii=False) for id, r in self.records.items()}
        yield DecodeLoop(*parts, self.videos, comments)

    def _predict(self, loop: StageLoop, group: Sequence[Job]) -> None:
        """Run one stage over those of the group that need it; all bound ranks come here."""
        failed = self.status.failed
        own = [job.id for job in group if job.id not in failed and loop.name in self._needs(job)]
        ids, kept = self.rank.share(own, loop.group)
        if ids and (loop.group.size > 1 or self.rank.is_lead):
            by_id = {job.id: job for job in self.jobs}
            self._run_stage(loop, [by_id[id] for id in ids], kept)
        self.rank.bound.barrier()

    def _run_stage(self, loop: StageLoop, jobs: Sequence[Job], kept: int) -> None:
        """One stage over jobs, of which the first ``kept`` are this rank's to keep."""
        self.display.enter(loop.name, len(jobs))
        numbers = {job.id: number for number, job in enumerate(self.jobs, start=1)}
        planned = self.networks.planned_gb(loop.name)
        kept = kept if self.rank.is_lead else 0
        keep = Keep(self.store, self.status, self._publish, self.tracker, planned, kept)
        trainer = Trainer(
            precision="32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.config.run_dir,
            callbacks=[Progress(self.display, numbers), keep],
            **trainer_options(self.rank, loop.group),
        )
        loader: DataLoader[Job] = DataLoader(jobs, batch_size=1, collate_fn=_single)
        try:
            trainer.predict(loop, loader, return_predictions=False)
        finally:
            keep.memory.stop()

    def _needs(self, job: Job) -> set[str]:
        """The stages whose results are missing on the way to the job's video."""
        needs = {"decode"}
        if not self.store.has("detail", job.detail_key):
            needs.add("detail")
        if not self.store.has("anchor", job.anchor_key):
            if "detail" in needs or self.config.save_anchor:
                needs.add("anchor")
        if needs & {"anchor", "detail"}:
            if not all(self.store.has("text", k) for k in (job.text_key, job.negative_key)):
                needs.add("text")
        return needs

    def _publish(self, job: Job, decode_cost: dict[str, float]) -> None:
        """The video is there: write its provenance, then call the job done."""
        stages = {
            name: {**self.store.facts(name, key), "reused": (name, key) in self.earlier}
            for name, key in results(job)
            if self.store.has(name, key)
        }
        tiles = self.networks.tiles
        stages["decode"] = {**decode_cost, "tiles": [tiles.rows, tiles.columns]}
        written = {**self.records[job.id], "stages": stages}
        write_json(self.videos / f"{job.id}.json", written)
        self._announce(job, written)
        if self.rank.mesh.world > 1:
            self._note_others()

    def _announce(self, job: Job, written: dict[str, Any]) -> None:
        self.status.done(job.id)
        self.tracker.video(self._video_of(job.id), written)
        self.display.line(f"video {self._video_of(job.id)}")

    def hear_others(self) -> None:
        """Wait for the other prompts' ranks and take note of what they made."""
        for failed in self.rank.everyone.gather(self.status.failed):
            for id, why in failed.items():
                self.status.fail(id, why)
        self._note_others()

    def _note_others(self) -> None:
        """Announce the videos that other prompts' ranks have finished meanwhile."""
        for job in self.jobs:
            if self.status.states[job.id]["state"] == "pending" and finished(self.config, job):
                written = (self.videos / f"{job.id}.json").read_text(encoding="utf-8")
                self._announce(job, json.loads(written))

    def _video_of(self, id: str) -> Path:
        return self.videos / f"{id}{self.config.video.suffix}"

    def outcome(self) -> Outcome:
        """What has become of the jobs so far."""
        done = [id for id, s in self.status.states.items() if s["state"] == "done"]
        videos = {id: self._video_of(id) for id in done}
        return Outcome(Path(self.config.run_dir), videos, self.status.failed)


def results(job: Job) -> tuple[tuple[str, str], ...]:
    """The kinds and keys of what the store keeps of a job."""
    return ("text", job.text_key), ("anchor", job.anchor_key), ("detail", job.detail_key)


def groups(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    """One job alone, so that its video comes early, then ``size`` at a time."""
    if jobs:
        yield jobs[:1]
    for start in range(1, len(jobs), size):
        yield jobs[start : start + size]


def _single(batch: list[Job]) -> Job:
    (job,) = batch
    return job
