"""A latent longer than the network was trained for, in windows of time that overlap.

Every step asks the network in each window of one shared latent, which begins as one shared noise,
and blends the answers. So the solver, its history and a rule of skipping see a single latent, and
no window has a state of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pixelwizard.config.geometry import windows_of

Join = Callable[[Callable[[slice], Tensor], int, int], Tensor]
"""Asks in every window of so many frames, each of a length, and makes one answer of theirs."""


def blended(ask: Callable[[slice], Tensor], frames: int, window: int) -> Tensor:
    """The answers ``[B, C, window, H, W]`` of all windows as one ``[B, C, frames, H, W]``, float32.

    ``ask(span)`` answers for the latent frames of ``span``. Where windows overlap, their weights
    rise and fall linearly and are divided by their sum; a latent that fits is asked for at once.
    """
    spans = windows_of(frames, window)
    if len(spans) == 1:
        return ask(spans[0])
    total: Tensor | None = None
    weights = [_weights(span, frames) for span in spans]
    share = torch.stack(weights).sum(0)
    for span, weight in zip(spans, weights, strict=True):
        answer = ask(span).float()
        if total is None:
            total = answer.new_zeros(*answer.shape[:2], frames, *answer.shape[3:])
        part = (weight / share)[span].to(answer.device, torch.float32)
        total[:, :, span] += answer * part.view(-1, 1, 1)
    assert total is not None
    return total


def side_by_side(ask: Callable[[slice], Tensor], frames: int, window: int) -> Tensor:
    """The answers ``[B, L, E]`` of all windows, one after another."""
    return torch.cat([ask(span) for span in windows_of(frames, window)], dim=1)


def _weights(span: slice, frames: int) -> Tensor:
    """The weight of a window in every latent frame: 0 outside, falling towards its inner ends."""
    place = torch.arange(frames, dtype=torch.float64)
    rise = place - span.start + 1 if span.start else torch.full_like(place, frames)
    fall = span.stop - place if span.stop < frames else torch.full_like(place, frames)
    return torch.minimum(rise, fall).clamp_min(0)
