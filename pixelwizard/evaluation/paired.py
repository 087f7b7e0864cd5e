"""PSNR, SSIM and VMAF of a video against the reference video of the same name, by ffmpeg's filters.

Both are compared as 8-bit yuv420p, frame by frame, whatever their clocks say.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pixelwizard.evaluation.ffmpeg import described, has_filter
from pixelwizard.evaluation.score import VideoMetric

MOST_PSNR = 100.0
"""Decibels that equal videos get, whose PSNR has no bound."""
_FILTERS = {
    "psnr": ("psnr", r"PSNR .*average:(\S+)"),
    "ssim": ("ssim", r"SSIM .*All:(\S+)"),
    "vmaf": ("libvmaf", r"VMAF score: (\S+)"),
}


def available() -> list[str]:
    """Those of the three that this ffmpeg can compute."""
    return [name for name, (filter_, _) in _FILTERS.items() if has_filter(filter_)]


def paired_metrics() -> dict[str, VideoMetric]:
    """A metric for each; ``update`` takes one value per video."""
    return {
        name: VideoMetric(name, None, f"{name}/ffmpeg-yuv420p/n={{n}}", dim=1, higher=True)
        for name in available()
    }


def compare(video: Path, reference: Path) -> dict[str, torch.Tensor]:
    """The scores [1, 1] of a video against a reference of the same size and length.

    Raises VideoError if one of them cannot be read.
    """
    names = available()
    clock = "settb=AVTB,setpts=N/24/TB,format=yuv420p"
    graph = [
        f"[{number}:v]{clock},split={len(names)}" + "".join(f"[{side}{name}]" for name in names)
        for number, side in enumerate("vr")
    ]
    graph += [f"[v{name}][r{name}]{_FILTERS[name][0]}=shortest=1[{name}]" for name in names]
    outputs = [word for name in names for word in ("-map", f"[{name}]", "-f", "null", "-")]
    said = described(
        ["-i", str(video), "-i", str(reference), "-lavfi", ";".join(graph), *outputs],
        f"{video.name} cannot be compared with its reference",
    )
    found = {name: re.findall(_FILTERS[name][1], said)[-1] for name in names}
    values = {name: float(text) for name, text in found.items()}
    values["psnr"] = min(values["psnr"], MOST_PSNR)
    return {name: torch.tensor([[value]], dtype=torch.float64) for name, value in values.items()}
