"""The anchor's features where there is room for them: on the device, or in host memory."""

from __future__ import annotations

import torch
from torch import Tensor


class Fetched:
    """Features [B, L, E] on ``device``, some tokens at a time.

    ``asynchronous``: they are in pinned host memory, and while a span of tokens is used the next
    one of that length is copied on a separate stream (CUDA). Elsewhere a span is copied when it is
    asked for, or is a view.
    """

    def __init__(self, features_BLE: Tensor, device: torch.device, asynchronous: bool) -> None:
        self.features, self.device = features_BLE, device
        self._copies = torch.cuda.Stream(device) if asynchronous else None
        self._ahead: tuple[slice, Tensor] | None = None

    def __call__(self, span: slice) -> Tensor:
        """The features of a span, [B, span, E]."""
        if self._copies is None:
            return self.features[:, span].to(self.device)
        known = self._ahead is not None and self._ahead[0] == span
        rows = self._ahead[1] if self._ahead and known else self._sent(span)
        torch.cuda.current_stream(self.device).wait_stream(self._copies)
        stop = min(2 * span.stop - span.start, self.features.shape[1])
        after = slice(span.stop, stop)
        self._ahead = (after, self._sent(after)) if span.stop < stop else None
        return rows

    def _sent(self, span: slice) -> Tensor:
        """Rows on the device whose copy is under way; its memory is free for it by then."""
        assert self._copies is not None
        rows = torch.empty_like(self.features[:, span], device=self.device)
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            rows.copy_(self.features[:, span], non_blocking=True)
        rows.record_stream(self._copies)  # a copy that nobody waits for keeps its memory
        return rows
