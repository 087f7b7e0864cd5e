"""NIQE: how far the local statistics of frames are from those of pristine photographs.

Mittal, Soundararajan, Bovik, "Making a Completely Blind Image Quality Analyzer" (IEEE SPL 20,
2013), with the pristine model of LIVE's release. Equal to BasicSR's implementation to 1e-3, but not
where areas are flat: there every implementation counts the signs of its own rounding errors. N
blocks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.linalg import vecdot
from torch.nn.functional import pad

from pixelwizard.evaluation.metrics.base import Given, VideoMetric, luma
from pixelwizard.evaluation.score import Unavailable
from pixelwizard.io.files import file_digest

MODEL = Path(__file__).resolve().parents[2] / "assets" / "metrics" / "niqe.safetensors"
LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
"""MATLAB's rgb2ycbcr, to which 16 is added."""
BLOCK, REACH = 96, 3
DIM = 36
"""Features: 18 on each of two scales."""
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
SHAPES = torch.arange(200, 10001, dtype=torch.float64) / 1000
"""The shape parameters that are tried."""


def niqe(frame_HWC: Tensor) -> float | None:
    """NIQE of a uint8 frame; lower is more natural. None if not even two blocks have texture."""
    rows, columns = frame_HWC.shape[0] // BLOCK, frame_HWC.shape[1] // BLOCK
    grey = luma(frame_HWC[: rows * BLOCK, : columns * BLOCK], LUMA).add_(16).round_()
    fine = _features(_sums(grey, BLOCK), BLOCK**2)
    coarse = _features(_sums(_halved(grey), BLOCK // 2), BLOCK**2 // 4)
    found = torch.cat([fine, coarse], dim=1)
    textured = found[~found.isnan().any(dim=1)]
    if len(textured) < 2:
        return None
    pristine, covariance = _pristine(), torch.cov(textured.T)
    apart = pristine["mean"] - found.nanmean(dim=0)
    inverse = torch.linalg.pinv((pristine["covariance"] + covariance) / 2)
    return float((apart @ inverse @ apart).sqrt())


class NIQE(VideoMetric):
    """NIQE, the mean over frames; less is more natural."""

    higher_is_better = False
    look = staticmethod(lambda frame, before: niqe(frame))

    def prepare(self, given: Given) -> None:
        """Raises Unavailable for frames of less than two blocks."""
        blocks = [(c.width // BLOCK) * (c.height // BLOCK) for c in given.clips]
        if min(blocks) < 2:
            raise Unavailable(f"a video has fewer than two blocks of {BLOCK} pixels")
        if min(blocks) < DIM:
            self.warnings = [
                f"{min(blocks)} blocks of {BLOCK} pixels in a frame are fewer than the {DIM}"
                " features: compare values of this size only"
            ]
        self.convention = f"live@{file_digest(MODEL)[:8]}/y601/{self.sampling}/n={{n}}"


@cache
def _pristine() -> dict[str, Tensor]:
    return load_file(MODEL)


def _window() -> list[float]:
    """A Gaussian of 7 pixels and deviation 7/6."""
    weights = torch.exp(-torch.arange(-REACH, REACH + 1, dtype=torch.float64).square() / (49 / 18))
    return (weights / weights.sum()).tolist()


def _weighted(values: Tensor, weights: list[float], dim: int, step: int = 1) -> Tensor:
    """The sums of weighted neighbours along an axis, every ``step``-th."""
    size = values.shape[dim] - len(weights) + 1
    places = [values.narrow(dim, start, size) for start in range(len(weights))]
    places = [place[::step] if dim == 0 else place[:, ::step] for place in places]
    total = places[0] * weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total.add_(place, alpha=weight)
    return total


def _halved(grey: Tensor) -> Tensor:
    """Half as large, like MATLAB's imresize: bicubic, antialiased, mirrored at the border."""
    apart = torch.tensor([1.75, 1.25, 0.75, 0.25], dtype=torch.float64)
    near = 1.5 * apart**3 - 2.5 * apart**2 + 1
    far = -0.5 * apart**3 + 2.5 * apart**2 - 4 * apart + 2
    weights = torch.where(apart <= 1, near, far) / 2
    taps = [*weights.tolist(), *weights.flip(0).tolist()]
    places, halves = torch.arange(len(grey)), []
    rows = torch.cat([places[:REACH].flip(0), places, places[-REACH:].flip(0)])
    for top in range(0, len(grey), BLOCK):
        strip = _weighted(grey[rows[top : top + BLOCK + 2 * REACH]], taps, 0, 2)
        strip = torch.cat([strip[:, :REACH].flip(1), strip, strip[:, -REACH:].flip(1)], dim=1)
        halves.append(_weighted(strip, taps, 1, 2))
    return torch.cat(halves)


def _sums(grey: Tensor, side: int) -> Tensor:
    """What the fits need of every block, row by row: float64 [N, 5, 5].

    Five maps: the normalised pixels, then their products with four neighbours inside the block.
    """
    found, blocks = [], torch.empty(grey.shape[1] // side, side, side)
    spare = torch.empty_like(blocks), torch.empty_like(blocks)  # fresh memory costs more than sums
    for top in range(0, len(grey), side):
        _normalise(grey, top, blocks)
        ring = pad(blocks[:, None], [1, 1, 1, 0], mode="circular")[:, 0]
        sums = [_sides(blocks, spare[1])]
        for down, right in NEIGHBOURS:
            near = ring[:, 1 - down : 1 - down + side, 1 - right : 1 - right + side]
            sums.append(_sides(torch.mul(blocks, near, out=spare[0]), spare[1]))
        found.append(torch.stack(sums, dim=1))
    return torch.cat(found)


def _normalise(grey: Tensor, top: int, blocks: Tensor) -> None:
    """Fill a row of blocks [N, side, side]: the pixels less their mean, by deviation plus 1."""
    side, window = blocks.shape[1], _window()
    rows = torch.arange(top - REACH, top + side + REACH).clamp_(0, len(grey) - 1)
    strip = pad(grey[None, None, rows], [REACH, REACH, 0, 0], mode="replicate")[0, 0]
    strip.sub_(128)  # for float32's sake
    mean = _weighted(_weighted(strip, window, 0), window, 1)
    square = _weighted(_weighted(strip.square(), window, 0), window, 1)
    spread = square.addcmul_(mean, mean, value=-1).abs_().sqrt_().add_(1)
    centred = torch.sub(strip[REACH:-REACH, REACH:-REACH], mean, out=mean)
    parts = (part.view(side, -1, side).transpose(0, 1) for part in (centred, spread))
    torch.div(*parts, out=blocks)


def _sides(map_N: Tensor, spare: Tensor) -> Tensor:
    """[N, 5]: sums of squares and numbers of the positive and of the negative; of magnitudes."""
    values, work = map_N.flatten(1), spare.flatten(1)
    torch.abs(values, out=work)
    squares, signed, magnitudes = vecdot(values, values), vecdot(values, work), work.sum(dim=1)
    torch.sign(values, out=work)
    counted, balance = vecdot(work, work), work.sum(dim=1)
    twice = [squares + signed, squares - signed, counted + balance, counted - balance]
    return torch.stack([*twice, 2 * magnitudes], dim=1).double() / 2


def _features(sums: Tensor, pixels: int) -> Tensor:
    """The 18 features of every block, of asymmetric generalised Gaussians; NaN where it is flat."""
    above, below, positive, negative, magnitudes = sums.unbind(-1)
    right, left = (above / positive).sqrt(), (below / negative).sqrt()
    skew = left / right
    ratio = magnitudes.square() / pixels / (above + below)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1).square()
    shape = _shape(ratio)
    scale = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    left, right = left * scale, right * scale
    mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
    own = torch.stack([shape[:, 0], (left + right)[:, 0] / 2], dim=1)
    return torch.cat([own, torch.stack([shape, mean, left, right], -1)[:, 1:].flatten(1)], dim=1)


def _shape(ratio: Tensor) -> Tensor:
    """The shape parameter whose ratio is nearest; the least where there is no ratio."""
    lgamma = torch.lgamma
    known = (2 * lgamma(2 / SHAPES) - lgamma(1 / SHAPES) - lgamma(3 / SHAPES)).exp()
    upper = torch.searchsorted(known, ratio.nan_to_num(0.0)).clamp(1, len(known) - 1)
    nearer_below = ratio - known[upper - 1] <= known[upper] - ratio
    return torch.where(ratio.isnan(), SHAPES[0], SHAPES[upper - nearer_below.long()])
