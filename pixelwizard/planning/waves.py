"""How much of a GPU the tiles of an attention keep busy.

A tile is 128 queries of one head (FlashAttention-2 and -3 and cuDNN at 128 channels a head). A GPU
takes one a multiprocessor at a time, so tiles run in waves, and a last wave that is not full leaves
multiprocessors idle at the end of every chunk.
"""

from __future__ import annotations

ROWS = 128


def filled(tokens: int, heads: int, processors: int) -> float:
    """The share of the waves of ``tokens`` queries that is work, in (0, 1]."""
    tiles = -(-tokens // ROWS) * heads
    waves = -(-tiles // processors)
    return tokens * heads / (ROWS * processors * waves)


def chunk_of_whole_waves(wanted: int, heads: int, processors: int) -> int:
    """The chunk near ``wanted`` tokens that leaves least idle; of equal ones the nearest.

    It is a multiple of 128 from a half to five quarters of ``wanted``, so memory stays similar.
    Raises ValueError where no multiple of 128 is in that range (``wanted`` under 103).
    """
    low, high = -(-wanted // (2 * ROWS)), 5 * wanted // (4 * ROWS)
    near = range(max(low, 1) * ROWS, high * ROWS + 1, ROWS)
    return max(near, key=lambda chunk: (filled(chunk, heads, processors), -abs(chunk - wanted)))
