"""HD-MSE and HD-LPIPS: how much of a frame is lost when it is shrunk by 8, 16, 32 and enlarged.

From UltraGen (arXiv 2510.18775, appendix D) in PixelWizard's form: bilinear both ways, values in
0..1, the sum over the three factors, the mean over frames; higher is more detail. Noise counts as
detail there, so its share is estimated beside it. H, W: pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from pixelwizard.evaluation.clips import Clip, Probe, Sampling, Watcher
from pixelwizard.evaluation.score import VideoMetric

FACTORS = (8, 16, 32)
FRAMES = 16
NOISE_KEPT = 1 + 0.25 * (2 / 3) ** 2
"""White noise that is lost at each factor, as a share of its variance: its own and that of what
comes back, the mean of four pixels under bilinear weights whose squares sum to (2/3)^2 on average.
"""

Distance = Callable[[Tensor, Tensor], float]
"""How far two images [1, 3, H, W] in 0..1 are apart."""


class LostDetail(Probe):
    """[1, 1]: the mean over 16 frames of what ``of_frame`` finds in [1, 3, H, W] in 0..1."""

    sampling = Sampling("uniform", FRAMES)

    def __init__(self, of_frame: Callable[[Tensor], float]) -> None:
        self.of_frame = of_frame

    def watch(self, clip: Clip) -> Watcher:
        return _Mean(self.of_frame)


class _Mean(Watcher):
    def __init__(self, of_frame: Callable[[Tensor], float]) -> None:
        self.of_frame = of_frame
        self.values: list[float] = []

    def see(self, frame_HWC: Tensor) -> None:
        frame = frame_HWC.permute(2, 0, 1)[None].float() / 255
        self.values.append(self.of_frame(frame))

    def found(self) -> Tensor:
        return torch.tensor([[math.fsum(self.values) / len(self.values)]], dtype=torch.float64)


def lost(frame_1CHW: Tensor, distance: Distance) -> float:
    """The sum over the factors of the distance to the frame shrunk and enlarged."""
    height, width = size = frame_1CHW.shape[-2:]
    total = 0.0
    for factor in FACTORS:
        small = max(1, height // factor), max(1, width // factor)
        shrunk = interpolate(frame_1CHW, small, mode="bilinear", align_corners=False)
        back = interpolate(shrunk, size, mode="bilinear", align_corners=False)
        total += distance(frame_1CHW, back)
    return total


def hd_mse(frame_1CHW: Tensor) -> float:
    """HD-MSE of a frame."""
    return lost(frame_1CHW, lambda one, two: float(mse_loss(one, two)))


def hd_mse_of_noise(frame_1CHW: Tensor) -> float:
    """What white noise alone, as strong as the frame's seems to be, would have as HD-MSE.

    Its deviation is estimated as by Immerkaer (CVIU 64, 1996): the mean absolute response to the
    second difference both ways, which straight edges do not pass.
    """
    across = _second_difference(frame_1CHW)
    response = _second_difference(across.transpose(2, 3)).abs().mean(dim=(2, 3))
    deviation = response * math.sqrt(math.pi / 2) / 6
    return len(FACTORS) * NOISE_KEPT * float(deviation.square().mean())


def _second_difference(values: Tensor) -> Tensor:
    """Along the last axis."""
    return values[..., 2:] - 2 * values[..., 1:-1] + values[..., :-2]


def hd_metrics() -> list[VideoMetric]:
    """HD-MSE and its control: detail is what exceeds the noise."""
    convention = f"k345/rgb01/{FRAMES}f-uniform/n={{n}}"
    names = {"hd-mse": (hd_mse, True), "hd-mse-noise": (hd_mse_of_noise, False)}
    return [
        VideoMetric(name, LostDetail(of_frame), f"{name}/{convention}", dim=1, higher=higher)
        for name, (of_frame, higher) in names.items()
    ]


def hd_lpips() -> VideoMetric:
    """HD-LPIPS with AlexNet; needs torchvision."""
    distance = lpips_distance()
    recipe = f"hd-lpips/alex@7be5be79/k345/{FRAMES}f-uniform/n={{n}}"
    probe = LostDetail(lambda frame: lost(frame, distance))
    return VideoMetric("hd-lpips", probe, recipe, dim=1, higher=True)


def lpips_distance() -> Distance:
    """LPIPS v0.1 of torchmetrics; its AlexNet comes from torchvision, which fetches it once."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity as LPIPS

    network = LPIPS(net_type="alex", normalize=True, sync_on_compute=False)  # as VideoMetric

    def distance(one: Tensor, two: Tensor) -> float:
        with torch.no_grad():
            return float(network(one, two.clamp(0, 1)))

    return distance
