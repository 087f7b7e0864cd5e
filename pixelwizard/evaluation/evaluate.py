"""Score the videos of a folder or of a run; every score has its recipe.

What cannot be scored is skipped and named; the rest is scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.output import IMPORTED, MetricsSettings
from pixelwizard.config.schema import ConfigError, listed
from pixelwizard.data.table import find_videos
from pixelwizard.evaluation.files import Clip, decided, find_captions, identity_of, ids_of, inspect
from pixelwizard.evaluation.imported import NotImported
from pixelwizard.evaluation.look import look, look_at_all
from pixelwizard.evaluation.measure import Measure
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.report import Report
from pixelwizard.evaluation.score import Unavailable
from pixelwizard.io.files import file_digest
from pixelwizard.io.terminal import Line, in_threads
from pixelwizard.io.video import VideoError

SOME_SKIPPED = 3


def evaluate(config: EvaluateConfig) -> int:
    """Score ``config.videos``, write and print the scores; returns the exit code.

    Raises ValueError if nothing can be scored.
    """
    videos = find_videos(Path(config.videos or ""), "videos")
    file = None if config.captions is None else Path(config.captions)
    captions, unused = find_captions(videos, file)
    reference = find_videos(Path(config.reference), "reference") if config.reference else []
    settings = decided(config.metrics, videos)
    report = Evaluation(videos, captions, settings, reference).run()
    if unused:
        report.notes.append(f"no video for the captions {listed(unused)}")
    report.write(
        Path(config.run_dir),
        identity_of(settings, dict(zip(ids_of(videos), videos, strict=True)), reference),
    )
    if config.tracker.kind != "none":
        from pixelwizard.tracking.wandb_run import log_scores

        log_scores(config, report.to_json())
    if config.format == "json":
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        print(report.table())
        print(config.run_dir)
    return SOME_SKIPPED if report.skipped or report.failed else 0


class Evaluation:
    """One evaluation: the clips, the metrics, and the report.

    ``captions`` go by the videos' names without suffix; without a ``reference`` no distances.
    """

    def __init__(
        self,
        videos: Sequence[Path],
        captions: Mapping[str, str],
        settings: MetricsSettings,
        reference: Sequence[Path] = (),
        line: Line | None = None,
    ) -> None:
        self.captions, self.report, self.line = captions, Report(), line or Line()
        clips = self.usable(videos, "")
        if not clips:
            raise ValueError(f"no video can be scored; {self.first_skipped()}")
        real = self.usable(reference, "reference/")
        if reference and not real:
            folder = reference[0].parent
            raise ValueError(
                f"reference={folder}: no video there can be used; {self.first_skipped()}"
            )
        same = {(clip.id, clip.size, clip.frames): clip for clip in real}
        pairs = {c.id: same[key] for c in clips if (key := (c.id, c.size, c.frames)) in same}
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.given = Given(settings, device, clips, real, pairs, self.line.show)
        self.report.notes += self.describe()
        self.measures: list[Measure] = []
        self.not_imported: set[str] = set()
        for name, part in settings.parts.items():
            try:
                self.measures.append(Measure(name, part, self.given))
            except Unavailable as error:
                self.report.missing[name] = str(error)
                if isinstance(error, NotImported):
                    self.not_imported.add(name)
            except Exception as error:
                theirs = name in IMPORTED or name in settings.extra
                if not theirs and not isinstance(error, ConfigError):
                    raise
                self.report.missing[name] = self.report.failed[name] = str(error)

    def run(self) -> Report:
        """Decode and score every clip; the report. Raises ValueError if none can be scored."""
        metrics, clips = [m.metric for m in self.measures], self.given.clips
        for number, (clip, looked) in enumerate(look_at_all(clips, metrics)):
            self.line.show(f"video {number + 1} of {len(clips)}", clip.id)
            try:
                self.score(clip, looked())
            except VideoError as error:
                self.report.skipped[clip.path.name] = str(error)
        self.line.show("")
        if self.report.skipped and not any(measure.taken for measure in self.measures):
            raise ValueError(f"no video can be scored; {self.first_skipped()}")
        for measure in self.measures:
            self.add(measure)
        told = {n: why for n, why in self.report.missing.items() if n not in self.not_imported}
        for reason in dict.fromkeys(told.values()):
            names = [name for name, why in told.items() if why == reason]
            self.report.notes.append(f"no {', '.join(names)}: {reason}")
        self.report.networks += [network.facts for network in self.given.networks.values()]
        self.report.notes += [f"{n.name}: {n.note}" for n in self.report.networks if n.note]
        return self.report

    def score(self, clip: Clip, seen: Sequence[Tensor | Exception]) -> None:
        """One clip through all metrics. Raises VideoError before any of them has taken it."""
        pair = self.given.pairs.get(clip.id)
        looking = [measure for measure in self.measures if measure.wants_real_frames and pair]
        real = look(pair, [m.metric for m in looking]) if pair and looking else []
        of_pair = dict(zip((m.name for m in looking), real, strict=True))
        for measure, found in zip(self.measures, seen, strict=True):
            frames = of_pair.get(measure.name)
            facts = {"caption": self.captions.get(clip.id), "clip": clip, "pair": pair}
            measure.take(clip.id, found, {**facts, "reference": frames, "target": frames})

    def add(self, measure: Measure) -> None:
        """Add a metric's scores to the report."""
        try:
            self.report.scores.append(measure.score())
        except Unavailable as error:
            self.report.missing[measure.name] = str(error)
        else:
            if measure.problem:
                self.report.notes.append(f"{measure.name}: {measure.problem}")
        if measure.failed:
            self.report.failed[measure.name] = measure.problem
        if shares := measure.pseudo_values:
            self.report.pseudo_values[measure.name] = shares
        if measure.values:
            self.report.recipes[measure.name] = measure.recipe(1)
        for id, value in measure.values.items():
            self.report.per_video.setdefault(id, {})[measure.name] = value

    def first_skipped(self) -> str:
        """The first video that was skipped, and why."""
        name, why = next(iter(self.report.skipped.items()))
        return f"{name}: {why}"

    def usable(self, paths: Sequence[Path], prefix: str) -> list[Clip]:
        """The clips that can be read; the others are reported as skipped."""
        ids = dict(zip(paths, ids_of(paths), strict=True))
        clips: dict[str, Clip] = {}

        def look_into(path: Path) -> Clip | str:
            try:
                return inspect(path, 1, ids[path])
            except VideoError as error:
                return str(error)

        threads = torch.get_num_threads()
        for path, clip in in_threads(paths, look_into, threads, self.line, "video"):
            if isinstance(clip, str) or clip.id in clips:
                other = "another video has its name without suffix"
                name = f"{prefix}{ids[path]}{path.suffix}"
                self.report.skipped[name] = clip if isinstance(clip, str) else other
            else:
                clips[clip.id] = clip
        return list(clips.values())

    def describe(self) -> Iterator[str]:
        """What must be known of the videos as a set."""
        clips, real = self.given.clips, self.given.reference
        if len(sizes := sorted({clip.size for clip in clips})) > 1:
            shown = ", ".join(f"{width}x{height}" for width, height in sizes)
            yield f"the videos have several sizes ({shown}): each is scored at its own"
        yield from _other_kind(clips, real)
        known = {file_digest(clip.path) for clip in real}
        if same := [clip.id for clip in clips if file_digest(clip.path) in known]:
            which = "the videos themselves" if len(same) == len(clips) else listed(same)
            yield f"the reference holds {which}: a distance to it says little"


def _other_kind(clips: Sequence[Clip], real: Sequence[Clip]) -> Iterator[str]:
    """Sizes and frame rates of the reference that the videos do not have."""
    for form, what, effect in (
        ("{0.width}x{0.height}", "sizes", "their patches show larger or smaller parts of a scene"),
        ("{0.fps:.4g}", "frame rates", "distances that see time count this too"),
    ):
        ours, theirs = ({form.format(clip) for clip in some} for some in (clips, real))
        if theirs - ours:
            shown = f"{listed(sorted(theirs))}, here {listed(sorted(ours))}"
            yield f"the reference has other {what} than the videos ({shown}): {effect}"
