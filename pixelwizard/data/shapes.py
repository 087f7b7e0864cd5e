"""Procedural captioned clips: one bright shape that moves over a muted background.

The grammar is `a {colour} {shape} {motion} over a {background} background`. A scene holds no
pixels: sizes are in units of the frame height and places are fractions of the range in which the
object stays inside the frame, so one scene renders to any size and frame count. Edges are drawn
from signed distances and antialiased over about one pixel.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (232, 36, 44),
    "yellow": (252, 212, 28),
    "green": (44, 200, 68),
    "cyan": (30, 206, 236),
    "blue": (40, 92, 248),
    "pink": (255, 104, 196),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (16, 16, 18),
    "gray": (124, 124, 128),
    "white": (232, 232, 228),
    "navy": (24, 36, 98),
    "brown": (112, 72, 42),
    "purple": (96, 48, 112),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks")
SPLITS = ("train", "heldout")

MARGIN = 0.02
"""Least distance of the object from the frame's border, in units of the height."""
OUTLINE = 0.012
"""Width of the object's darker outline, inside its edge, in units of the height."""
OUTLINE_SHADE = 0.5
GRADIENT = 0.06
"""The background is this much lighter at the top and darker at the bottom."""
SQUARE_HALF_SIDE = 0.88
CROSS_ARM = 0.4
TRIANGLE_HALF_HEIGHT = 3**0.5 / 2
EDGE_PIXELS = 1.4
"""Width of the smooth edge in pixels."""

Combination = tuple[str, str, str, str]


@dataclass(frozen=True)
class Scene:
    """One clip, independent of its size.

    `radius` is half the object's extent at the first and the last moment, in units of the height.
    `x` and `y` are its centre at the first and the last moment as fractions of the free range: 0
    where the object at its largest is MARGIN away from the left or upper border, 1 likewise at the
    right or lower one.
    """

    colour: str
    shape: str
    motion: str
    background: str
    radius: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]


def _combinations(split: str) -> tuple[Combination, ...]:
    """All combinations of a split in a fixed shuffled order.

    A Latin selection is held out: of every pair of words exactly one sixth of the combinations.
    """
    chosen = [
        (colour, shape, motion, background)
        for c, colour in enumerate(COLOURS)
        for s, shape in enumerate(SHAPES)
        for m, motion in enumerate(MOTIONS)
        for b, background in enumerate(BACKGROUNDS)
        if ((c + s + m + b) % 6 == 0) == (split == "heldout")
    ]
    return tuple(_shuffled(chosen, seed=0))


def _shuffled(items: list[Combination], seed: int) -> list[Combination]:
    """The items sorted by draws of a generator whose stream Python guarantees."""
    rng = random.Random(seed)
    return [item for _, item in sorted((rng.random(), item) for item in items)]


_OF_SPLIT = {split: _combinations(split) for split in SPLITS}


def _of_split(split: str) -> tuple[Combination, ...]:
    if split not in _OF_SPLIT:
        raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}")
    return _OF_SPLIT[split]


def _sentence(combination: Combination) -> str:
    colour, shape, motion, background = combination
    return f"a {colour} {shape} {motion} over a {background} background"


_PARSED = {_sentence(item): item for split in SPLITS for item in _OF_SPLIT[split]}

WORDS: tuple[str, ...] = tuple(sorted({word for text in _PARSED for word in text.split()}))
"""Every word that occurs in a caption, sorted."""


def caption(scene: Scene) -> str:
    """The sentence that describes a scene."""
    return _sentence((scene.colour, scene.shape, scene.motion, scene.background))


def prompts(split: str, count: int, seed: int = 0) -> list[str]:
    """Different captions of a split ("train" or "heldout"), shuffled by the seed.

    Raises ValueError when the split has fewer than `count` captions.
    """
    items = list(_of_split(split))
    if not 0 <= count <= len(items):
        raise ValueError(f"count={count} must lie in 0..{len(items)}, the captions of {split!r}")
    return [_sentence(item) for item in _shuffled(items, seed)[:count]]


def scene(seed: int, split: str = "train") -> Scene:
    """The scene of a seed (>= 0); consecutive seeds take the captions of the split in turn."""
    items = _of_split(split)
    return _placed(items[seed % len(items)], seed)


def scene_for(text: str, seed: int) -> Scene:
    """A scene that has `text` as its caption; the seed places and sizes the object.

    Raises ValueError when the text is not a sentence of the grammar.
    """
    if text not in _PARSED:
        raise ValueError(
            f"caption {text!r} is not a sentence of the shapes grammar;"
            " write for example 'a red circle moves left over a gray background'"
        )
    return _placed(_PARSED[text], seed)


def _placed(combination: Combination, seed: int) -> Scene:
    """Draws sizes and places that make the motion large and plain to see."""
    colour, shape, motion, background = combination
    rng = random.Random(seed)
    vertical = motion in ("moves up", "moves down")
    size = rng.uniform(0.24, 0.30 if vertical else 0.34)
    radius, x, y = (size, size), (rng.random(),) * 2, (rng.random(),) * 2
    if motion in ("grows", "shrinks"):
        small = size / rng.uniform(1.7, 2.0)
        radius = (small, size) if motion == "grows" else (size, small)
    elif vertical:
        y = _path(rng, 0.62, 0.76, forwards=motion == "moves down")
    else:
        x = _path(rng, 0.46, 0.66, forwards=motion == "moves right")
    return Scene(colour, shape, motion, background, radius, x, y)


def _path(rng: random.Random, least: float, most: float, forwards: bool) -> tuple[float, float]:
    """Start and end within 0..1, between `least` and `most` apart."""
    length = rng.uniform(least, most)
    low = rng.uniform(0.0, 1.0 - length)
    return (low, low + length) if forwards else (low + length, low)


def _circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(radius)


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    dx, dy = np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height)
    outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
    return outside + np.minimum(np.maximum(dx, dy), 0)


def _square(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return _box(x, y, SQUARE_HALF_SIDE * radius, SQUARE_HALF_SIDE * radius)


def _cross(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    arm = CROSS_ARM * radius
    return np.minimum(_box(x, y, radius, arm), _box(x, y, arm, radius))


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Equilateral, tip up, of side 2 radii; the distance to its three lines."""
    half_height = np.float32(TRIANGLE_HALF_HEIGHT * radius)
    slope = np.float32(TRIANGLE_HALF_HEIGHT) * np.abs(x) - (y + half_height) * np.float32(0.5)
    return np.maximum(slope, y - half_height)


_DISTANCE: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}


def coverage(distance: np.ndarray, height: int) -> np.ndarray:
    """Share of each pixel inside an edge at signed distance `distance` (units of the height)."""
    step = np.clip(np.float32(0.5) - distance * np.float32(height / EDGE_PIXELS), 0, 1)
    return step * step * (3 - 2 * step)


def distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance (negative inside) to an upright shape centred on the origin.

    x (broadcastable along columns) and y (along rows) are float32, y grows downwards.
    """
    return _DISTANCE[shape](x, y, radius)


def _background(name: str, height: int) -> np.ndarray:
    """The background's colour in each row: float32 [H, 3] in 0..255."""
    rows = (np.arange(height, dtype=np.float32) + np.float32(0.5)) / np.float32(height)
    factor = 1 + np.float32(GRADIENT) * (1 - 2 * rows)
    return factor[:, None] * np.asarray(BACKGROUNDS[name], np.float32)


def _between(pair: tuple[float, float], moment: float) -> float:
    return pair[0] + (pair[1] - pair[0]) * moment


def placement(scene: Scene, aspect: float, moment: float) -> tuple[float, float, float]:
    """Centre x, centre y and radius at a moment in 0..1, all in units of the height.

    `aspect` is width / height of the frame.
    """
    border = max(scene.radius) + MARGIN
    x = border + (aspect - 2 * border) * _between(scene.x, moment)
    y = border + (1 - 2 * border) * _between(scene.y, moment)
    return x, y, _between(scene.radius, moment)


def _span(centre: float, radius: float, height: int, length: int) -> slice:
    """The pixels of an axis that an object can touch, one pixel of margin included."""
    low, high = int((centre - radius) * height) - 1, int((centre + radius) * height) + 2
    return slice(max(low, 0), min(high, length))


def _draw(frame: np.ndarray, scene: Scene, rows: np.ndarray, moment: float) -> None:
    """Draws the object into one frame, uint8 [H, W, 3], that shows the background."""
    height, width = frame.shape[:2]
    centre_x, centre_y, radius = placement(scene, width / height, moment)
    down = _span(centre_y, radius, height, height)
    across = _span(centre_x, radius, height, width)
    y = (np.arange(down.start, down.stop, dtype=np.float32) + 0.5) / np.float32(height)
    x = (np.arange(across.start, across.stop, dtype=np.float32) + 0.5) / np.float32(height)
    away = distance(
        scene.shape, x[None, :] - np.float32(centre_x), y[:, None] - np.float32(centre_y), radius
    )
    fill = np.asarray(COLOURS[scene.colour], np.float32)
    outline = fill * np.float32(OUTLINE_SHADE)
    outer = coverage(away, height)[..., None]
    inner = coverage(away + np.float32(OUTLINE), height)[..., None]
    behind = rows[down, None, :]
    mixed = behind + outer * (outline - behind) + inner * (fill - outline)
    frame[down, across] = np.rint(mixed, out=mixed)


def render(scene: Scene, width: int, height: int, frames: int) -> np.ndarray:
    """The clip of a scene: uint8 [T, H, W, 3], RGB in 0..255.

    Raises ValueError when the frame is too narrow for the object.
    """
    if min(width, height, frames) < 1:
        raise ValueError(f"size {width}x{height}, {frames} frames: each must be at least 1")
    if width / height < 2 * (max(scene.radius) + MARGIN):
        raise ValueError(f"width={width} is too narrow for height={height}; use at least {height}")
    rows = _background(scene.background, height)
    clip = np.empty((frames, height, width, 3), np.uint8)
    clip[:] = np.rint(rows).astype(np.uint8)[None, :, None, :]
    for index, frame in enumerate(clip):
        _draw(frame, scene, rows, index / max(frames - 1, 1))
    return clip
