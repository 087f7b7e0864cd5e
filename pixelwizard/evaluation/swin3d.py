"""Video Swin with gated position biases, as DOVER's technical branch has it.

Liu et al., arXiv 2106.13230; the gates of FAST-VQA, Wu et al., arXiv 2207.02595: a frame is made of
7x7 fragments, and the positions of two tokens count otherwise if they are of different ones.
Names of the weights as in https://github.com/VQAssessment/DOVER. D, H, W: tokens along time, height
and width; C channels, K windows, N tokens of a window, h heads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Size = tuple[int, int, int]
WINDOW: Size = (8, 7, 7)
SHIFT: Size = (4, 3, 3)
FRAGMENTS, HEAD = 7, 32
AT_ONCE = 32
"""Windows that attend together, which bounds the memory."""
APART = -100.0
"""Added to the scores of tokens that only the shift has brought together."""


class Swin3D(nn.Module):
    """A clip [3, 2 D, 4 H, 4 W] -> [D, H / 8, W / 8, C].

    D is a multiple of 8, H and W are of 56. The last stage has no gates.
    """

    def __init__(self, depths: Sequence[int], width: int) -> None:
        super().__init__()
        proj = nn.Conv3d(3, width, (2, 4, 4), (2, 4, 4))
        self.patch_embed = nn.ModuleDict({"proj": proj, "norm": nn.LayerNorm(width)})
        last = len(depths) - 1
        self.layers = nn.ModuleList(
            _Stage(width * 2**number, depth, number == last) for number, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(width * 2**last)

    def forward(self, clip_3THW: Tensor) -> Tensor:
        x = self.patch_embed["norm"](self.patch_embed["proj"](clip_3THW).movedim(0, -1))
        for stage in self.layers:
            x = stage(x)
        return self.norm(x)


class _Stage(nn.Module):
    """Blocks, every second one with shifted windows; then, but at the end, half as many tokens."""

    def __init__(self, width: int, depth: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, gated=not last) for _ in range(depth))
        self.downsample = nn.Identity() if last else _Merging(width)

    def forward(self, x_DHWC: Tensor) -> Tensor:
        size: Size = tuple(x_DHWC.shape[:3])  # type: ignore[assignment]
        shifted = tuple(
            step if side > window else 0
            for side, window, step in zip(size, WINDOW, SHIFT, strict=True)
        )
        for place, block in enumerate(self.blocks):
            x_DHWC = block(x_DHWC, shifted if place % 2 else (0, 0, 0))
        return self.downsample(x_DHWC)


class _Merging(nn.Module):
    """Four neighbours become one token: [D, H, W, C] -> [D, H / 2, W / 2, 2 C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        four = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, -1)))


class _Block(nn.Module):
    """Attention inside windows, then two layers; each added to its input."""

    def __init__(self, width: int, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _Attention(width, gated)
        wide = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU()}
        self.mlp = nn.Sequential(OrderedDict(**wide, fc2=nn.Linear(4 * width, width)))

    def forward(self, x_DHWC: Tensor, shift: Size) -> Tensor:
        size, back = x_DHWC.shape, [-step for step in shift]
        inside = windows(self.norm1(x_DHWC).roll(back, (0, 1, 2)))
        gates, apart = (found.to(x_DHWC.device) for found in relations(size[:3], shift))
        seen = _joined(self.attn(inside, gates, apart), size).roll(shift, (0, 1, 2))
        x_DHWC = x_DHWC + seen
        return x_DHWC + self.mlp(self.norm2(x_DHWC))


class _Attention(nn.Module):
    """Of the tokens of every window, [K, N, C] -> [K, N, C]."""

    fragment_position_bias_table: nn.Parameter | None

    def __init__(self, width: int, gated: bool) -> None:
        super().__init__()
        self.heads = width // HEAD
        offsets = [2 * side - 1 for side in WINDOW]
        entries = offsets[0] * offsets[1] * offsets[2]
        self.relative_position_bias_table = nn.Parameter(torch.zeros(entries, self.heads))
        other = nn.Parameter(torch.zeros(entries, self.heads)) if gated else None
        self.register_parameter("fragment_position_bias_table", other)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, inside_KNC: Tensor, gates_KNN: Tensor, apart_KNN: Tensor) -> Tensor:
        near = self._biases(self.relative_position_bias_table)
        other = self.fragment_position_bias_table
        far = None if other is None else self._biases(other)
        parts = (all.split(AT_ONCE) for all in (inside_KNC, gates_KNN, apart_KNN))
        found = []
        for some, gates, apart in zip(*parts, strict=True):
            bias = near if far is None else torch.addcmul(far, near - far, gates[:, None])
            heads = self.qkv(some).unflatten(2, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
            query, key, value = heads.unbind()
            seen = scaled_dot_product_attention(query, key, value, bias + apart[:, None])
            found.append(self.proj(seen.transpose(1, 2).flatten(2)))
        return torch.cat(found)

    def _biases(self, table: Tensor) -> Tensor:
        """[h, N, N]."""
        return table[offsets().to(table.device)].permute(2, 0, 1).contiguous()


def offsets() -> Tensor:
    """The row [N, N] of a table of biases for each pair of tokens of a window."""
    axes = torch.meshgrid(*(torch.arange(side) for side in WINDOW), indexing="ij")
    found = torch.zeros(1, 1, dtype=torch.long)
    for places, side in zip(axes, WINDOW, strict=True):
        apart = places.flatten()[:, None] - places.flatten()
        found = found * (2 * side - 1) + apart + side - 1
    return found


def windows(x_DHWC: Tensor) -> Tensor:
    """[D, H, W, C] -> [K, N, C]."""
    for dim, side in zip((0, 2, 4), WINDOW, strict=True):
        x_DHWC = x_DHWC.unflatten(dim, (-1, side))
    return x_DHWC.permute(0, 2, 4, 1, 3, 5, 6).flatten(3, 5).flatten(0, 2)


def _joined(inside_KNC: Tensor, size_DHWC: Sequence[int]) -> Tensor:
    """What ``windows`` took apart."""
    counts = [side // window for side, window in zip(size_DHWC, WINDOW, strict=False)]
    apart = inside_KNC.reshape(*counts, *WINDOW, -1)
    return apart.permute(0, 3, 1, 4, 2, 5, 6).reshape(*size_DHWC)


def relations(size_DHW: Sequence[int], shift: Size) -> tuple[Tensor, Tensor]:
    """Of each two tokens of a window, [K, N, N]: fragments between them, and what keeps them apart.

    0 fragments for tokens of the same one, else the steps down and aside from one to the other.
    """
    places = torch.meshgrid(*(torch.arange(side) for side in size_DHW), indexing="ij")
    cells = [places[dim] // (size_DHW[dim] // FRAGMENTS) for dim in (1, 2)]
    down, right = (
        windows(cell[..., None].to(torch.int8).roll([-step for step in shift], (0, 1, 2)))[..., 0]
        for cell in cells
    )
    fragments = (down[:, :, None] - down[:, None]).abs_()
    fragments += (right[:, :, None] - right[:, None]).abs_()
    regions = torch.zeros(tuple(size_DHW), dtype=torch.long)
    for place, side, window, step in zip(places, size_DHW, WINDOW, shift, strict=True):
        later = (place >= side - window).long() + (place >= side - step) if step else 0
        regions = 3 * regions + later
    region = windows(regions[..., None])[..., 0]
    return fragments.float(), (region[:, :, None] != region[:, None]) * APART
