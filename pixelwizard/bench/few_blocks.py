"""What a whole network takes, counted from two runs of its first blocks, where time is short.

After the blocks to which the anchor is added, blocks repeat themselves: all are alike, or every
second or third where an attention differs by layer. Two runs that differ by one such period tell
what a period costs in seconds and in bytes, and all others are counted like it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from pixelwizard.config.backbone import BackboneSettings


@dataclass(frozen=True)
class FewBlocks:
    """Runs of ``first`` blocks and of ``period`` more stand for all ``of`` blocks."""

    first: int
    period: int
    of: int

    @property
    def runs(self) -> tuple[int, int]:
        """The blocks of each run."""
        return self.first, self.first + self.period

    @property
    def share(self) -> float:
        """What both runs take of a whole one."""
        return sum(self.runs) / self.of

    def whole(self, small: float, large: float) -> float:
        """The cost of all blocks, given those of the two runs; that of a block is not negative."""
        return small + (self.of - self.first) // self.period * max(0.0, large - small)


def few_blocks(kinds: Sequence[Hashable], least: int) -> FewBlocks | None:
    """The shortest two runs that tell the cost of blocks of these ``kinds``, in order.

    The first ``least`` blocks, at least, are in both. None where a whole run is as short.
    """
    of = len(kinds)
    possible = [
        FewBlocks(first, period, of)
        for first in range(max(1, least), of)
        for period in range(1, of - first)
        if (of - first) % period == 0 and kinds[first:-period] == kinds[first + period :]
    ]
    shortest = min(possible, key=lambda few: few.share, default=None)
    return shortest if shortest and shortest.share < 1 else None


def with_blocks(backbone: BackboneSettings, blocks: int) -> BackboneSettings:
    """The same backbone whose two transformers have that many blocks."""
    controls = [block for block in backbone.control_blocks if block < blocks]
    dit = replace(backbone.dit, num_layers=blocks)
    return replace(backbone, dit=dit, detail_layers=None, control_blocks=controls)


def too_long(
    parts: Mapping[str, float], shortened: Mapping[str, float], seconds: float
) -> set[str]:
    """The longest of the ``parts``, to be shortened so that all are done in ``seconds``.

    Both mappings are seconds by name; a part that is in ``parts`` alone cannot be shortened.
    """
    chosen: set[str] = set()
    total = sum(parts.values())
    for name in sorted(shortened, key=lambda name: parts[name], reverse=True):
        if total <= seconds:
            break
        chosen.add(name)
        total -= parts[name] - shortened[name]
    return chosen
