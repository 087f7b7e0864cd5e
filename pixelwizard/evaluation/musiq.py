"""MUSIQ: the quality of a picture of any size, from patches of three scales.

Ke et al., arXiv 2108.05997. Sizes, constants and the names of the weights as in
https://github.com/google-research/google-research, folder musiq; resizing as TensorFlow's GAUSSIAN
(both Apache-2.0). N patches (tokens: one more), H, W pixels.

The original fills the two small scales up with masked patches; nothing attends to them, so here
there are none.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, max_pool2d, pad, scaled_dot_product_attention

PATCH, GRID, SIDES = 32, 10, (224, 384)
"""Pixels of a patch, cells of the grid of places, longer sides of the small scales."""
STEM, WIDTH, HEADS, WIDE, DEPTH = 64, 384, 6, 1152, 14
AT_ONCE = 512
"""Patches that are embedded together, which bounds the memory."""
RADIUS, SIGMA = 1.5, 0.5
"""Of the Gaussian that resizes, in pixels of the source at any ratio."""


class _Unit(nn.Module):
    """A bottleneck of three convolutions beside a projection: [N, 64, 8, 8] -> [N, 256, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gn1 = _conv(STEM, STEM, 1), _norm(STEM)
        self.conv2, self.gn2 = _conv(STEM, STEM, 3, padding=1), _norm(STEM)
        self.conv3, self.gn3 = _conv(STEM, 4 * STEM, 1), _norm(4 * STEM)
        self.conv_proj, self.gn_proj = _conv(STEM, 4 * STEM, 1), _norm(4 * STEM)

    def forward(self, x: Tensor) -> Tensor:
        aside: Tensor = self.gn_proj(self.conv_proj(x))
        x = self.gn1(self.conv1(x)).relu()
        x = self.gn2(self.conv2(x)).relu()
        return (aside + self.gn3(self.conv3(x))).relu()


def _conv(given: int, out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(given, out, kernel, stride, padding, bias=False)


def _norm(channels: int, eps: float = 1e-4) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps)


class _Block(nn.Module):
    """Attention over all tokens, then two layers: [N, 384] -> [N, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, WIDE), nn.Linear(WIDE, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        projected = (self.query(y), self.key(y), self.value(y))
        heads = (one.unflatten(1, (HEADS, -1)).transpose(0, 1)[None] for one in projected)
        seen = scaled_dot_product_attention(*heads)[0].transpose(0, 1).flatten(1)
        x = x + self.out(seen)
        return x + self.narrow(gelu(self.widen(self.between(x)), approximate="tanh"))


class MUSIQ(nn.Module):
    """A picture float32 [3, H, W] in -1..1 -> its quality, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_root, self.gn_root = _conv(3, STEM, 7, stride=2), _norm(STEM, 1e-6)
        self.unit = _Unit()
        self.embedding = nn.Linear(4 * STEM * (PATCH // 4) ** 2, WIDTH)
        self.places = nn.Parameter(torch.zeros(GRID**2, WIDTH))
        self.scales = nn.Parameter(torch.zeros(len(SIDES) + 1, WIDTH))
        self.cls = nn.Parameter(torch.zeros(1, WIDTH))
        self.blocks = nn.Sequential(*(_Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, picture_3HW: Tensor) -> Tensor:
        tokens: list[Tensor] = [self.cls]
        for scale, picture in enumerate(pyramid(picture_3HW)):
            places = self.places[cells(*picture.shape[1:]).to(picture.device)]
            tokens.append(self._embed(patches(picture)) + places + self.scales[scale])
        quality: Tensor = self.head(self.norm(self.blocks(torch.cat(tokens))[0]))
        return quality.squeeze()

    def _embed(self, patches_N3PP: Tensor) -> Tensor:
        """[N, 3, 32, 32] -> [N, 384]; TensorFlow pads what is even at the end."""
        found = []
        for some in patches_N3PP.split(AT_ONCE):
            x = self.gn_root(self.conv_root(pad(some, (2, 3, 2, 3)))).relu()
            x = max_pool2d(pad(x, (0, 1, 0, 1)), 3, 2)  # after the ReLU 0 is the least
            found.append(self.embedding(self.unit(x).permute(0, 2, 3, 1).flatten(1)))
        return torch.cat(found)


def pyramid(picture_CHW: Tensor) -> list[Tensor]:
    """The picture with a longer side of 224, of 384, and as it is."""
    sides = picture_CHW.shape[1:]
    found = []
    for longer in SIDES:
        ratio = np.float32(longer) / np.float32(max(sides))
        height, width = (int(np.round(np.float32(side) * ratio)) for side in sides)
        found.append(resize(picture_CHW, height, width))
    return [*found, picture_CHW]


def resize(picture_CHW: Tensor, height: int, width: int) -> Tensor:
    """Every pixel a weighted mean of the 3x3 nearest: no blur for what is much smaller."""
    if picture_CHW.shape[1:] == (height, width):
        return picture_CHW
    for dim, size in ((1, height), (2, width)):
        places, weights = (found.to(picture_CHW.device) for found in taps(picture_CHW, dim, size))
        shape = (-1, 1) if dim == 1 else (-1,)
        parts = (
            picture_CHW.index_select(dim, place) * weight.view(shape)
            for place, weight in zip(places, weights, strict=True)
        )
        picture_CHW = torch.stack([*parts]).sum(0)
    return picture_CHW


def taps(picture_CHW: Tensor, dim: int, size: int) -> tuple[Tensor, Tensor]:
    """Sources and weights [4, size] of an axis, in TensorFlow's float32 steps.

    A source outside of the picture weighs nothing, and the others weigh 1 together.
    """
    given = picture_CHW.shape[dim]
    step = np.float32(1) / (np.float32(size) / np.float32(given))
    centre = torch.arange(size, dtype=torch.float32).add(0.5).mul(float(step))
    places = (centre - RADIUS - 0.5).ceil() + torch.arange(4.0)[:, None]
    apart = places + 0.5 - centre
    weights = torch.exp(-(apart**2) / (2 * SIGMA**2))
    weights[(apart.abs() >= RADIUS) | (places < 0) | (places >= given)] = 0
    return places.clamp(0, given - 1).long(), weights / weights.sum(0)


def patches(picture_3HW: Tensor) -> Tensor:
    """Adjacent squares [N, 3, 32, 32], row by row; zeros around what is no multiple of 32."""
    margins = [-side % PATCH for side in picture_3HW.shape[1:]]
    (top, left) = (margin // 2 for margin in margins)
    whole = pad(picture_3HW, (left, margins[1] - left, top, margins[0] - top))
    return whole.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(1, 2).transpose(0, 1)


def cells(height: int, width: int) -> Tensor:
    """The cell [N] of the grid of 10x10 that each patch of a picture lies in, 0..99."""
    rows, columns = (
        torch.arange(count).mul(float(np.float32(GRID) / np.float32(count))).long().clamp(max=9)
        for count in (-(-height // PATCH), -(-width // PATCH))
    )
    return (rows[:, None] * GRID + columns).flatten()


_OWNERS = {
    "unit": "block1/unit1",
    "norm": "Transformer/encoder_norm",
    "cls": "Transformer/cls",
    "places": "Transformer/posembed_input/pos_embedding",
    "scales": "Transformer/scaleembed_input/scale_embedding",
}
_LAYERS = {
    "before": "LayerNorm_0",
    "between": "LayerNorm_2",
    "widen": "MlpBlock_3/Dense_0",
    "narrow": "MlpBlock_3/Dense_1",
}


def published_name(name: str, own: Tensor) -> str:
    """``blocks.3.query.weight`` -> ``Transformer/encoderblock_3/.../query/kernel``, and so on."""
    owner, *path = name.split(".")
    if path and path[-1] == "weight":
        path[-1] = "scale" if own.ndim == 1 else "kernel"
    if owner == "blocks":
        number, layer, *path = path
        layer = _LAYERS.get(layer, f"MultiHeadDotProductAttention_1/{layer}")
        return "/".join([f"Transformer/encoderblock_{number}", layer, *path])
    return "/".join([_OWNERS.get(owner, owner), *path])


def load_musiq(path: Path) -> MUSIQ:
    """The network of one of Google's npz files, of which only the weights are read.

    Raises ValueError for another file, or one whose weights have other names or shapes.
    """
    with torch.device("meta"):
        network = MUSIQ()
    owned = network.state_dict()
    names = {name: f"opt/target/{published_name(name, own)}" for name, own in owned.items()}
    found = _read(path, [*names.values()])
    if missing := [name for name in names.values() if name not in found]:
        more = f" and {len(missing) - 1} others" if missing[1:] else ""
        raise ValueError(
            f"{path} is not a MUSIQ file with three scales: it lacks {missing[0]}{more}"
        )
    state = {}
    for name, own in owned.items():
        value = _ordered(found[names[name]], names[name])
        if value.shape != own.shape:
            shapes = f"{list(found[names[name]].shape)} is not for {list(own.shape)}"
            raise ValueError(
                f"{path} is not a MUSIQ file with three scales: {names[name]} {shapes}"
            )
        state[name] = _standardised(value) if own.ndim == 4 else value.contiguous()
    network.load_state_dict(state, assign=True)
    return network.eval()


def _read(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Those of the arrays that are there, as float32. Raises ValueError for another file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            there = [name for name in names if name in file]
            return {name: torch.from_numpy(file[name].astype(np.float32)) for name in there}
    except (ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a whole npz file of numbers") from error


def _ordered(value: Tensor, name: str) -> Tensor:
    """A weight in torch's order: of heads one after another, of vectors and tables without ones."""
    if not name.endswith("/kernel"):
        return value[0] if name.endswith(("_embedding", "/cls")) else value.flatten()
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)
    return (value.flatten(0, -2) if "/out/" in name else value.flatten(1)).T


def _standardised(kernel_OIHW: Tensor) -> Tensor:
    """The kernel that convolves: of every output mean 0 and deviation 1."""
    apart = kernel_OIHW - kernel_OIHW.mean((1, 2, 3), keepdim=True)
    return apart / (apart.std((1, 2, 3), correction=0, keepdim=True) + 1e-5)
