"""Decides by programme what a clip of the shapes data set shows, to score generated clips.

Works on uint8 clips [T, H, W, 3]. Everything is decided from moments over many pixels and frames,
so blur, video compression and a slight wobble of the object do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from pixelwizard.data.shapes import BACKGROUNDS, COLOURS, SHAPES, distance, scene_for

WORKING_HEIGHT = 80
"""Clips at least twice as high are averaged down to about this many rows, against speckle."""
LEAST_CONTRAST = 55.0
"""RGB distance (0..441) from the background from which a pixel may belong to an object."""
LEAST_AREA, MOST_AREA = 0.004, 0.6
"""Share of the frame that an object covers in the median frame; anything else is no object."""
LEAST_MATCH = 0.7
"""Least mean intersection over union of a shape with the object; below it is a blob."""
LEAST_MOTION = 0.5
"""Least motion, as a share of the weakest motion of its kind in the data set."""
WEAKEST = {"horizontal": 0.4, "vertical": 0.21, "growth": math.log(1.7)}
"""The data set's weakest motions: of the height, of the height, of the radius' logarithm."""
REFERENCE_SIZE = 400


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; None where nothing can be told."""

    colour: str | None
    shape: str | None
    motion: str | None
    background: str


def _template(shape: str) -> tuple[float, float]:
    """Area (radius 1) of a shape, and its centroid's height below the centre."""
    axis = (np.arange(REFERENCE_SIZE, dtype=np.float32) + 0.5) * 2.2 / REFERENCE_SIZE - 1.1
    inside = distance(shape, axis[None, :], axis[:, None], 1.0) < 0
    return inside.mean() * 2.2**2, float((inside * axis[:, None]).sum() / inside.sum())


TEMPLATES = {shape: _template(shape) for shape in SHAPES}


def judge(clip: np.ndarray) -> Verdict:
    """What a clip, uint8 [T, H, W, 3], shows."""
    video = _reduced(clip)
    behind = np.median(video.reshape(-1, 3)[::5], axis=0)
    background = _nearest(BACKGROUNDS, behind)
    candidates = video[np.linalg.norm(video - behind, axis=-1) > LEAST_CONTRAST]
    if len(candidates) < LEAST_AREA * video[..., 0].size:
        return Verdict(None, None, None, background)
    fill = np.median(candidates, axis=0)
    masks = _masks(video, behind, fill)
    if not LEAST_AREA < np.median(masks.mean(axis=(1, 2))) < MOST_AREA:
        return Verdict(None, None, None, background)
    return Verdict(_nearest(COLOURS, fill), _shape(masks), _motion(masks), background)


def score(clips: Iterable[np.ndarray], captions: Iterable[str]) -> dict[str, float]:
    """Share of the clips with the right colour, shape, motion, background, and all four."""
    right = []
    for clip, text in zip(clips, captions, strict=True):
        wanted = scene_for(text, seed=0)
        verdict = judge(clip)
        right.append([getattr(verdict, f.name) == getattr(wanted, f.name) for f in fields(verdict)])
    table = np.array(right, dtype=float)
    shares = {f.name: float(table[:, i].mean()) for i, f in enumerate(fields(Verdict))}
    return {**shares, "all": float(table.all(axis=1).mean())}


def _reduced(clip: np.ndarray) -> np.ndarray:
    """float32, averaged over blocks so that about WORKING_HEIGHT rows stay."""
    block = max(clip.shape[1] // WORKING_HEIGHT, 1)
    height, width = clip.shape[1] // block, clip.shape[2] // block
    video = np.zeros((len(clip), height, width, 3), np.float32)
    for row in range(block):
        for column in range(block):
            video += clip[:, row : height * block : block, column : width * block : block]
    return video / block**2


def _nearest(palette: dict[str, tuple[int, int, int]], colour: np.ndarray) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(palette[name] - colour)))


def _masks(video: np.ndarray, behind: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """bool [T, H, W]: pixels more than half way from the background to the object's colour."""
    way = fill - behind
    return (video - behind) @ way > 0.5 * (way @ way)


def _moments(mask: np.ndarray) -> tuple[float, float, float]:
    """Centroid (x, y) and area of a mask with at least one pixel, in units of the height."""
    height = mask.shape[0]
    rows, columns = np.nonzero(mask)
    x, y = ((float(places.mean()) + 0.5) / height for places in (columns, rows))
    return x, y, len(rows) / height**2


def _match(mask: np.ndarray, shape: str) -> float:
    """Intersection over union of a mask and the shape of the same area and centroid."""
    centre_x, centroid_y, area = _moments(mask)
    own_area, own_centroid = TEMPLATES[shape]
    radius = math.sqrt(area / own_area)
    height, width = mask.shape
    x = (np.arange(width, dtype=np.float32) + 0.5) / height - centre_x
    y = (np.arange(height, dtype=np.float32) + 0.5) / height - centroid_y
    y += own_centroid * radius
    fitted = distance(shape, x[None, :], y[:, None], radius) < 0
    return float((mask & fitted).sum() / (mask | fitted).sum())


def _shape(masks: np.ndarray) -> str | None:
    """The shape that fits the middle half of the frames best on average."""
    length = len(masks)
    middle = [mask for mask in masks[length // 4 : length - length // 4] if mask.any()]
    if not middle:
        return None
    matches = {shape: np.mean([_match(mask, shape) for mask in middle]) for shape in SHAPES}
    best = max(matches, key=lambda shape: matches[shape])
    return best if matches[best] >= LEAST_MATCH else None


def _motion(masks: np.ndarray) -> str | None:
    """The motion whose straight-line trend over the clip is the largest for its kind."""
    seen = [i for i, mask in enumerate(masks) if mask.any()]
    if len(seen) < max(2, len(masks) // 2):
        return None
    x, y, area = np.array([_moments(masks[i]) for i in seen]).T
    moment = np.array(seen) / (len(masks) - 1)
    trends = {
        ("moves left", "moves right"): np.polyfit(moment, x, 1)[0] / WEAKEST["horizontal"],
        ("moves up", "moves down"): np.polyfit(moment, y, 1)[0] / WEAKEST["vertical"],
        ("shrinks", "grows"): np.polyfit(moment, np.log(area) / 2, 1)[0] / WEAKEST["growth"],
    }
    names = max(trends, key=lambda pair: abs(trends[pair]))
    strength = float(trends[names])
    return names[strength > 0] if abs(strength) >= LEAST_MOTION else None
