"""What the decode will need: the real decoder traced on its largest tile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

import torch

from pixelwizard.geometry import TEMPORAL_STRIDE
from pixelwizard.plan_settings import PlanConfig
from pixelwizard.sampling_cost import META, Cost
from pixelwizard.settings import Config
from pixelwizard.tracing import Trace
from pixelwizard.wan.tiling import strips
from pixelwizard.wan.vae import WanVAE

TRACED = 3
"""Latent frames that are traced: from the third on, every frame costs the same."""


@dataclass(frozen=True)
class Cut:
    """A grid of decode tiles."""

    rows: int
    columns: int


def cuts(config: Union[Config, PlanConfig]) -> Iterator[Cut]:
    """Grids of ever smaller tiles."""
    yield Cut(1, config.resolution.decode_tiles)


def cost_of_decode(config: Union[Config, PlanConfig], cut: Cut) -> Cost:
    """The cost of one clip."""
    size = config.resolution
    frames, height, width = size.geometry.latent_grid
    widths = [strip.stop - strip.start for strip in strips(width, cut.columns, size.decode_overlap)]
    dtype = getattr(torch, config.backbone.dtype)
    trace = Trace()
    with torch.no_grad(), trace:
        with META:
            vae = WanVAE(config.backbone.vae).to(dtype)
        weights = trace.live
        latent = torch.empty(1, vae.sizes.z_dim, frames, height, max(widths), device=META).to(dtype)
        trace.restart_peak()
        marks = []
        for _ in vae.decode_stream(latent[:, :, : min(frames, TRACED)]):
            marks.append((Counter(trace.flops), trace.moved))
    (flops, moved), rest = marks[-1], frames - TRACED
    before = marks[-1 - TEMPORAL_STRIDE] if len(marks) > TEMPORAL_STRIDE else marks[-1]
    share = sum(widths) / max(widths)
    total = Counter(
        {
            kind: int(share * (count + max(0, rest) * (count - before[0][kind])))
            for kind, count in flops.items()
        }
    )
    return Cost(
        weights, trace.peak, total, int(share * (moved + max(0, rest) * (moved - before[1])))
    )
