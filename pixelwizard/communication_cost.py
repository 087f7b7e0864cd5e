"""Bytes that the ranks of a run send to each other. Arithmetic alone: no torch.

Every count is what one rank sends to the others (and receives from them, as all do the same);
where ranks differ, it is the one that sends most. A value has ``dtype_bytes`` bytes: 2 in
bfloat16, 4 in float32.
"""

from __future__ import annotations

from itertools import pairwise

from pixelwizard.geometry import Geometry, cuts


def tokens_per_rank(tokens: int, ranks: int) -> int:
    """Tokens that each rank holds; the last ones of the last rank may be padding."""
    return -(-tokens // ranks)


def ulysses_bytes(tokens: int, dim: int, ranks: int, dtype_bytes: int = 2) -> int:
    """One layer of attention whose heads are split over ``ranks`` (arXiv 2309.14509).

    Queries, keys and values go from tokens to heads, the result comes back: four tensors of
    ``dim`` channels, of which a rank keeps its own share.
    """
    return 4 * tokens_per_rank(tokens, ranks) * dim * dtype_bytes * (ranks - 1) // ranks


def gather_bytes(values: int, ranks: int, dtype_bytes: int = 4) -> int:
    """A tensor of which each rank has ``values`` becomes whole on all of them."""
    return values * dtype_bytes * (ranks - 1)


def guidance_bytes(values: int, dtype_bytes: int = 4) -> int:
    """One guided step on two halves of the ranks: a prediction of ``values``, each to the other."""
    return values * dtype_bytes


def shard_bytes(weights: int, ranks: int) -> int:
    """One forward whose ``weights`` (bytes) are sharded: what the other ranks hold is gathered."""
    return weights * (ranks - 1) // ranks


def strip_bytes(geometry: Geometry, ranks: int) -> int:
    """The decode of one clip: uint8 strips of all ranks but the one that writes them."""
    rows = max((b - a for a, b in pairwise(cuts(geometry.latent_grid[1], ranks)[1:])), default=0)
    return geometry.clip_bytes * rows // geometry.latent_grid[1]
