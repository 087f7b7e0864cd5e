"""Score videos, of a folder or of a run: every score with its recipe.

What cannot be scored is skipped and named; the rest is scored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pixelwizard.config.evaluate import EvaluateConfig
from pixelwizard.config.metrics import MetricsSettings
from pixelwizard.evaluation.clip import CLIPScore, FrameConsistency, FrameEmbeddings
from pixelwizard.evaluation.clips import Clip, Found, inspect, look_at_all
from pixelwizard.evaluation.detail import hd_lpips, hd_metrics
from pixelwizard.evaluation.files import backbone_of, content_hash, find_captions, find_videos
from pixelwizard.evaluation.flicker import flicker
from pixelwizard.evaluation.frechet import Moments, keep_moments, kept_moments
from pixelwizard.evaluation.fvd import FRAMES, ClipFeatures, FrechetVideoDistance, PatchFeatures
from pixelwizard.evaluation.names import decided, network_folder, network_of
from pixelwizard.evaluation.networks import CLIPNetwork, VideoNetwork
from pixelwizard.evaluation.paired import compare, paired_metrics
from pixelwizard.evaluation.report import Report, listed
from pixelwizard.evaluation.score import TooFew, VideoMetric
from pixelwizard.io.progress import Line
from pixelwizard.io.video import VideoError

SOME_SKIPPED = 3
FrechetProbe = ClipFeatures | PatchFeatures


def evaluate(config: EvaluateConfig) -> int:
    """Score ``config.videos``, write and print the scores; returns the exit code.

    Raises ValueError if nothing can be scored.
    """
    videos = find_videos(Path(config.videos or ""), "videos")
    file = None if config.captions is None else Path(config.captions)
    captions, unused = find_captions(videos, file)
    reference = find_videos(Path(config.reference), "reference") if config.reference else []
    settings = decided(config.metrics, backbone_of(videos))
    report = Evaluation(videos, captions, settings, reference).run()
    if unused:
        report.notes.append(f"no video for the captions {listed(unused)}")
    report.write(Path(config.run_dir))
    if config.format == "json":
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        print(report.table())
        print(config.run_dir)
    return SOME_SKIPPED if report.skipped else 0


class Evaluation:
    """One evaluation: the clips, the metrics, and what there is to report.

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
        self.captions, self.settings = captions, settings
        self.report, self.line = Report(), line or Line()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.clips = self.usable(videos, "")
        if not self.clips:
            raise ValueError(f"no video can be scored; {self.first_skipped()}")
        self.metrics: list[VideoMetric] = [*hd_metrics(), flicker()]
        if settings.lpips:
            self.metrics.append(hd_lpips())
        self.add_clip()
        self.pairs: dict[str, Clip] = {}
        self.paired: dict[str, VideoMetric] = {}
        if reference:
            self.add_reference(reference)
        else:
            self.report.notes.append("fvd, hd-fvd, psnr, ssim and vmaf need reference=DIR")

    def run(self) -> Report:
        """Decode and score every clip; the report."""
        probes = list(dict.fromkeys(m.probe for m in self.metrics if m.probe is not None))
        for number, (clip, found) in enumerate(look_at_all(self.clips, probes)):
            self.line.show(f"video {number + 1} of {len(self.clips)}", clip.id)
            try:
                self.score(number, clip, found)
            except VideoError as error:
                self.report.skipped[clip.path.name] = str(error)
        self.line.show("")
        scored = [m for m in [*self.metrics, *self.paired.values()] if m.update_called]
        if not scored:
            raise ValueError(f"no video can be scored; {self.first_skipped()}")
        for metric in scored:
            try:
                self.report.scores.append(metric.score())
            except TooFew as error:
                self.report.notes.append(f"no {metric.name}: {error}")
        for metric in (m for m in scored if m.dim == 1):
            values = {self.clips[n].id: value for n, value in metric.per_video().items()}
            self.report.add_per_video(metric.name, metric.recipe.format(n=1), values)
        return self.report

    def first_skipped(self) -> str:
        """The first video that was skipped, and why."""
        name, why = next(iter(self.report.skipped.items()))
        return f"{name}: {why}"

    def score(self, number: int, clip: Clip, look: Found) -> None:
        """One clip through all metrics. Raises VideoError before any of them has taken it."""
        found = look()
        pair = self.pairs.get(clip.id)
        compared = compare(clip.path, pair.path) if pair else {}
        for metric in self.metrics:
            assert metric.probe is not None
            if not isinstance(metric, CLIPScore):
                metric.update(number, found[metric.probe])
            elif clip.id in self.captions:
                metric.update(number, found[metric.probe], self.captions[clip.id])
        for name, value in compared.items():
            self.paired[name].update(number, value)

    def usable(self, paths: Sequence[Path], prefix: str) -> list[Clip]:
        """The clips that can be scored together; the others are reported as skipped."""
        clips: list[Clip] = []
        for path in paths:
            try:
                if path.stem in {clip.id for clip in clips}:
                    raise VideoError("another video has its name without suffix")
                clips.append(inspect(path, FRAMES))
            except VideoError as error:
                self.report.skipped[prefix + path.name] = str(error)
        sizes = Counter((clip.width, clip.height) for clip in clips)
        common = sizes.most_common(1)[0][0] if sizes else (0, 0)
        for clip in clips:
            if (clip.width, clip.height) != common:
                self.report.skipped[prefix + clip.path.name] = (
                    f"its size {clip.width}x{clip.height} is not that of the most,"
                    f" {common[0]}x{common[1]}; score each size in a folder of its own"
                )
        return [clip for clip in clips if (clip.width, clip.height) == common]

    def add_clip(self) -> None:
        """The metrics that look with a CLIP."""
        if self.settings.clip is None:
            self.report.notes.append(
                "no clip score and frame consistency without a network: pixelwizard fetch"
                " clip-vit-l14, and metrics.clip=clip-vit-l14"
            )
            return
        facts = network_of(self.settings, "clip")
        network = CLIPNetwork(facts, network_folder(facts, self.settings), self.device)
        self.report.add_network(facts)
        probe = FrameEmbeddings(network)
        self.metrics.append(FrameConsistency(probe))
        without = [clip.id for clip in self.clips if clip.id not in self.captions]
        if len(without) < len(self.clips):
            self.metrics.append(CLIPScore(probe))
        if without:
            self.report.notes.append(f"no clip score without a caption: {listed(without)}")

    def add_reference(self, paths: Sequence[Path]) -> None:
        """The metrics that compare with a reference: as a set, and file by file."""
        others = self.usable(paths, "reference/")
        if not others:
            raise ValueError(
                f"reference={paths[0].parent}: no video there can be used; {self.first_skipped()}"
            )
        if self.settings.video is None:
            self.report.notes.append("no fvd and hd-fvd: metrics.video=null names no network")
        else:
            self.add_distances(others)
        same = {(clip.id, clip.width, clip.height, clip.frames): clip for clip in others}
        for clip in self.clips:
            if pair := same.get((clip.id, clip.width, clip.height, clip.frames)):
                self.pairs[clip.id] = pair
        self.add_pairs()

    def add_distances(self, others: Sequence[Clip]) -> None:
        """The distances to the reference as a set."""
        facts = network_of(self.settings, "video")
        network = VideoNetwork(facts, network_folder(facts, self.settings), self.device)
        self.report.add_network(facts)
        probes: list[FrechetProbe] = [ClipFeatures(network)]
        if min(self.clips[0].width, self.clips[0].height, others[0].width, others[0].height) >= (
            facts.side
        ):
            probes.append(PatchFeatures(network))
        else:
            self.report.notes.append(f"no hd-fvd: a video is smaller than {facts.side} pixels")
        content = content_hash([clip.path for clip in others])
        moments = self.reference_moments(others, probes, content)
        for probe in probes:
            metric = FrechetVideoDistance(probe, moments[probe.recipe], content)
            self.metrics.append(metric)

    def add_pairs(self) -> None:
        """PSNR and its like, where there are pairs; a remark where there are none."""
        if not self.pairs:
            self.report.notes.append(
                "no psnr, ssim and vmaf: no reference has the name, size and length of a video"
            )
            return
        self.paired = paired_metrics()
        if "vmaf" not in self.paired:
            self.report.notes.append("no vmaf: this ffmpeg was built without libvmaf")

    def reference_moments(
        self, clips: Sequence[Clip], probes: Sequence[FrechetProbe], content: str
    ) -> dict[str, Moments]:
        """The moments of the reference by recipe, from its folder's cache where it has them."""
        folder = clips[0].path.parent
        found = kept_moments(folder, content)
        missing = [probe for probe in probes if probe.recipe not in found]
        if not missing:
            return found
        for number, (clip, look) in enumerate(look_at_all(clips, missing)):
            self.line.show(f"reference {number + 1} of {len(clips)}", clip.id)
            for probe, samples in look().items():
                assert isinstance(probe, FrechetProbe)
                moments = Moments.of(samples)
                known = found.get(probe.recipe)
                found[probe.recipe] = moments if known is None else known + moments
        keep_moments(folder, found, content)
        return found
