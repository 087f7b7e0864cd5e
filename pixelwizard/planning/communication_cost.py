"""Bytes that the ranks of a run send to each other. Pure arithmetic: no torch.

Every count is for one rank, which sends and receives equally many bytes;
where ranks differ, it is the rank that sends most. A value has ``dtype_bytes`` bytes: 2 in
bfloat16, 4 in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from pixelwizard.config.geometry import SPATIAL_STRIDE


def tokens_per_rank(tokens: int, ranks: int) -> int:
    """The tokens of the rank with most; others have the same number or one fewer."""
    return -(-tokens // ranks)


def ulysses_bytes(tokens: int, dim: int, ranks: int, dtype_bytes: int = 2) -> int:
    """One layer of attention whose heads are split over ``ranks`` (arXiv 2309.14509).

    Queries, keys and values of own tokens go to the ranks of their heads, the results of the
    others' tokens go back to them; where tokens divide, 4 L dim / P (P - 1) / P values.
    """
    own = tokens_per_rank(tokens, ranks)
    return (3 * own * (ranks - 1) + tokens - own) * dim * dtype_bytes // ranks


def gather_bytes(values: int, ranks: int, dtype_bytes: int = 4) -> int:
    """An all-gather of a tensor of which each rank has ``values``."""
    return values * dtype_bytes * (ranks - 1)


def guidance_bytes(values: int, dtype_bytes: int = 4) -> int:
    """One guided step on two halves of the ranks: a prediction of ``values``, each to the other."""
    return values * dtype_bytes


def shard_bytes(weights: int, ranks: int) -> int:
    """One forward with sharded ``weights`` (bytes): the slices of the other ranks are gathered."""
    return weights * (ranks - 1) // ranks


def strip_bytes(turns: Sequence[Sequence[int]], frames: int) -> int:
    """The decode of a clip: the uint8 pixels of the busiest rank but the first, which writes.

    ``turns``: the latent cells that each rank decodes, as often as they all take another part.
    """
    cells = sum(max(parts[1:], default=0) for parts in turns)
    return 3 * frames * cells * SPATIAL_STRIDE**2
