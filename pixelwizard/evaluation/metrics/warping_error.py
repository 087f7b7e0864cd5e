"""Temporal warping error: what changes from a frame to the next beyond its motion.

Lai et al., "Learning Blind Video Temporal Consistency" (ECCV 2018, arXiv 1808.00449): the mean
squared difference of a frame and its successor, warped back along the optical flow, over the pixels
that both show. Flow: DIS of OpenCV (Kroeger et al., arXiv 1603.03590) on at most 540 rows;
occlusion where forward and backward flow disagree (Ruder et al., arXiv 1604.08610). Luma in 0..1,
at full resolution.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from pixelwizard.evaluation.metrics.base import Given, Sampling, VideoMetric, luma
from pixelwizard.evaluation.score import Unavailable

ROWS = 540
"""Flow is sought in frames of at most this many rows."""
STRIP = 64
"""Rows that are compared at once."""


def warping_error(frame_HWC: Tensor, before: Tensor | None) -> float | None:
    """The error from the frame before to this one; None where there is none."""
    if before is None:
        return None
    import cv2

    first, second = luma(before).numpy(), luma(frame_HWC).numpy()
    height, width = first.shape
    rows = min(height, ROWS)
    small = (max(1, round(width * rows / height)), rows)
    one, two = (
        cv2.resize(grey, small, interpolation=cv2.INTER_AREA).astype(np.uint8)
        for grey in (first, second)
    )
    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    forward, backward = search.calc(one, two, None), search.calc(two, one, None)
    visible = cv2.resize(_consistent(forward, backward), (width, height)) > 0.5
    flow = cv2.resize(forward, (width, height)) * (height / rows)
    total = 0.0
    for top in range(0, height, STRIP):
        strip = slice(top, top + STRIP)
        apart = (first[strip] - _along(flow[strip], second, top))[visible[strip]] / 255
        total += float(np.square(apart, out=apart).sum(dtype=np.float64))
    return total / max(1, int(visible.sum()))


def _along(flow_HW2: Any, values: Any, top: int = 0) -> Any:
    """Values at the places that the flow leads to; its first row is the row ``top`` of them."""
    import cv2

    rows, columns = np.indices(flow_HW2.shape[:2], dtype=np.float32)
    places = columns + flow_HW2[..., 0], rows + (flow_HW2[..., 1] + top)
    return cv2.remap(values, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _consistent(forward: Any, backward: Any) -> Any:
    """1 where a pixel that goes and comes back arrives where it was, else 0."""
    returned = _along(forward, backward)
    missed = np.square(forward + returned).sum(axis=-1)
    lengths = np.square(forward).sum(axis=-1) + np.square(returned).sum(axis=-1)
    return (missed < 0.01 * lengths + 0.5).astype(np.float32)


class WarpingError(VideoMetric):
    """Warping error over eight pairs of frames; less is steadier."""

    higher_is_better = False
    sampling = Sampling("pairs", 8, least=2)
    temporal = True
    look = staticmethod(warping_error)

    def prepare(self, given: Given) -> None:
        """Raises Unavailable without OpenCV."""
        if find_spec("cv2") is None:
            raise Unavailable("needs OpenCV: pip install 'pixelwizard[features]'")
        self.convention = f"dis-fast{ROWS}/luma709-mse/{self.sampling}/n={{n}}"
