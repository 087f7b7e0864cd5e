"""Samples held-out clips with a trained network and keeps the figures of each.

These are distances of latents and of pixels, and features of networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.comparison.few_step.files import (
    Row,
    clip_file,
    few_step_folder,
    goal_file,
    missing_in,
    read_row,
)
from pixelwizard.comparison.few_step.networks import Clip, Networks, clips
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.output import SCORED_FRAMES, MetricsSettings
from pixelwizard.config.train import MOST_CLIPS, TrainConfig
from pixelwizard.data.examples import to_video
from pixelwizard.evaluation.judge import score
from pixelwizard.evaluation.metrics.frame_mmd import FrameKernelDistance
from pixelwizard.evaluation.names import IMAGE, NETWORKS, missing_files, network_folder
from pixelwizard.evaluation.networks import ImageNetwork, VideoNetwork
from pixelwizard.io.files import write_json
from pixelwizard.io.terminal import Line
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.files import read_tensors, save
from pixelwizard.models.wan.vae import to_pixels

MANY, REAL = 50, 24
"""Steps of the goal; real clips for the distance of sets, which come after all that are sampled."""
JUDGED = ("colour", "background", "motion", "shape")
GOAL = "latent"
Given = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a clip is sampled from: noise, the latent of its anchor, both texts."""
EVERY, SEEN = 4, Geometry(224, 224, 1)
"""The frames that the image network sees, and their size there."""


def mse(latent: Tensor, goal: Tensor) -> float:
    """Mean square distance."""
    return float((latent - goal).square().mean())


def psnr(video: np.ndarray, real: np.ndarray) -> float:
    """dB over all pixels and frames of uint8 clips."""
    error = float(np.mean((video.astype(np.float32) - real) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def enlarge(video: np.ndarray, size: Geometry) -> np.ndarray:
    """uint8 frames at another size, bicubically."""
    frames = to_video(video)[0].transpose(0, 1)
    large = F.interpolate(frames, (size.height, size.width), mode="bicubic")
    return to_pixels(large.transpose(0, 1)).numpy()


class Features:
    """Features of clips, uint8 [T, H, W, 3]; each network is loaded when it is first needed."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    @cached_property
    def video(self) -> VideoNetwork:
        facts = NETWORKS["tiny-video"]
        return VideoNetwork(facts, network_folder(facts, MetricsSettings()), self.device)

    @cached_property
    def image(self) -> ImageNetwork:
        facts = NETWORKS[IMAGE]
        return ImageNetwork(facts, network_folder(facts, MetricsSettings()), self.device)

    @property
    def has_images(self) -> bool:
        """Whether the image network is installed: it comes with an extra."""
        return not missing_files(NETWORKS[IMAGE], MetricsSettings())

    def of_video(self, frames: np.ndarray) -> list[float]:
        """What tiny-video sees in the first frames of a clip."""
        fitted = [self.video.fit(torch.from_numpy(f.copy())) for f in frames[:SCORED_FRAMES]]
        return self.video.sample(torch.stack(fitted))[0].tolist()

    def of_frames(self, frames: np.ndarray) -> list[float]:
        """What the image network sees in some frames, stretched: their mean, their change."""
        seen = self.image.embed(torch.from_numpy(enlarge(frames[::EVERY], SEEN)))
        return FrameKernelDistance().features(seen[:, None])[0].tolist()


class Measuring:
    """The detail stage of a run with held-out clips; ``goals`` is the starting network's folder."""

    def __init__(self, config: TrainConfig, goals: Path, device: torch.device) -> None:
        self.config, self.goals = config, goals
        self.networks, self.features = Networks(config, device), Features(device)
        self._given: dict[int, Given] = {}

    def measure(
        self, name: str, network: ShortcutDiT, sampler: Mapping[str, object], what: str
    ) -> None:
        """The missing figures of all clips, kept as those of the network ``name``."""
        self.networks.detail_network = network
        settings, line = self.config.comparison, Line()
        for number, clip in enumerate(clips(settings.clips), start=1):
            path = clip_file(self.config.run_dir, name, clip.number)
            row = read_row(path)
            for count in missing_in(row, settings):
                line.show(f"{what}: clip {number} of {settings.clips}, {count} passes")
                decode = count in settings.decoded
                row[f"{count}"] = self.figures(clip, dict(sampler, steps=count), decode)
                write_json(path, row)
        line.say(f"{what}: measured on {settings.clips} clips")

    def latent(self, clip: Clip, sampler: Mapping[str, object]) -> Tensor:
        """Sampled from the clip's anchor and noise."""
        stage = self.networks.detail(SamplerSettings(**{"solver": "euler", **sampler}))  # type: ignore[arg-type]
        return stage(*self.given(clip))

    def given(self, clip: Clip) -> Given:
        """What a clip is sampled from, made once."""
        if clip.number not in self._given:
            noise = self.networks.noise(clip, self.config.resolution.geometry, stream=2)
            condition = self.networks.condition(clip)[1]
            self._given[clip.number] = (noise, condition, *self.networks.texts(clip))
        return self._given[clip.number]

    def goal(self, clip: Clip) -> Tensor:
        """The starting network's latent of many steps. Raises ValueError without a readable one."""
        return read_tensors(goal_file(self.goals, clip.number))[GOAL].to(self.networks.device)

    def make_goals(self, network: ShortcutDiT, guidance: float) -> None:
        """The goals of all clips that have none."""
        self.networks.detail_network = network
        settings, line = self.config.comparison, Line()
        for number, clip in enumerate(clips(settings.clips), start=1):
            path = goal_file(self.goals, clip.number)
            if path.is_file():
                continue
            line.show(f"start: clip {number} of {settings.clips}, {MANY} steps")
            sampler = {"solver": "unipc", "steps": MANY, "guidance": guidance}
            latent = self.latent(clip, sampler)
            save({GOAL: latent.cpu()}, path, torch.float32)

    def figures(self, clip: Clip, sampler: Mapping[str, object], decode: bool) -> Row:
        """Distance, and of the decoded clip PSNR, features and what the judge says."""
        latent = self.latent(clip, sampler)
        row: Row = {"distance": mse(latent, self.goal(clip))}
        if not decode:
            return row
        video = self.networks.decoded(latent)
        real = clip.render(self.config.resolution.geometry)
        right = score([video], [clip.text])
        row |= {
            "psnr": psnr(video, real),
            "judge": sum(right[name] for name in JUDGED) / len(JUDGED),
            "features": self.features.of_video(video),
            "real": self.features.of_video(real),
        }
        if self.features.has_images:
            row["images"] = self.features.of_frames(video)
        return row

    def look_at_real(self) -> None:
        """Keep what the image network sees in real clips that nothing else uses."""
        path = few_step_folder(self.config.run_dir) / "real_images.json"
        if path.is_file() or not self.config.comparison.decoded or not self.features.has_images:
            return
        size = self.config.resolution.geometry
        others = clips(MOST_CLIPS + REAL)[-REAL:]
        images = [self.features.of_frames(clip.render(size)) for clip in others]
        write_json(path, {"images": images})
