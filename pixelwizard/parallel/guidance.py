"""Guidance parallelism: the two passes of classifier-free guidance on two ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class CFGParallel:
    """Two ranks that run one of the two passes each; ``sent`` counts the bytes of this one."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group, self.index = group, group.rank()
        self.sent = 0

    def both(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions of the first and of the second half, from the one made here."""
        first, second = torch.empty_like(own), torch.empty_like(own)
        dist.all_gather([first, second], own.contiguous(), self.group)
        self.sent += own.nbytes
        return first, second
