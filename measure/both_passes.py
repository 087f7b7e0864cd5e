"""What both passes of guidance as one batch save on a processor: run by hand.

    python measure/both_passes.py

The anchor network of ``tiny`` is asked for both passes of a step, alternately in two forwards and
in one, at several lengths: the ratio of processor seconds of one thread, the median of all pairs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from pixelwizard.cli.compose import compose
from pixelwizard.config.geometry import Geometry
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.weights import load_anchor

SIZES = {
    "128x64, 9 frames": Geometry(64, 32, 9),
    "512x320, 17 frames": Geometry(256, 160, 17),
    "512x320, 33 frames": Geometry(256, 160, 33),
    "512x320, 49 frames": Geometry(256, 160, 49),
    "512x320, 69 frames": Geometry(256, 160, 69),
}
"""Videos and the sizes of their anchors."""
PAIRS = 40


def ratio(network: WanDiT, size: Geometry) -> float:
    """Processor seconds of two forwards in those of one with both passes."""
    sizes, draw = network.sizes, torch.Generator().manual_seed(0)
    latent = torch.randn(1, sizes.in_dim, *size.latent_grid, generator=draw)
    time_B = torch.tensor([500.0])
    texts = [torch.randn(length, sizes.text_dim, generator=draw) for length in (9, 1)]
    first, second = (network.encode_text([text]) for text in texts)
    both = network.encode_text(texts)
    pair, times = latent.expand(2, *latent.shape[1:]), time_B.expand(2)
    ratios = []
    for _ in range(PAIRS):
        two = seconds(lambda: (network(latent, time_B, first), network(latent, time_B, second)))
        ratios.append(two / seconds(lambda: network(pair, times, both)))
    return statistics.median(ratios)


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


@torch.no_grad()
def main() -> None:
    """Print a row for each length."""
    torch.set_num_threads(1)
    (composed,) = compose("plan", ["backbone=tiny"])
    network = load_anchor(composed.config.backbone)
    for name, size in SIZES.items():
        print(f"{name:>20} {size.tokens:>5} tokens {ratio(network, size):.2f}", flush=True)


if __name__ == "__main__":
    main()
