"""The cost of the text stage: the real encoder, with one layer traced and counted for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from pixelwizard.config.backbone import TextSizes
from pixelwizard.models.wan.umt5 import TextEncoder
from pixelwizard.planning.sampling_cost import Cost
from pixelwizard.planning.tracing import META, Trace, Work


def cost_of_text(sizes: TextSizes, text_len: int, dtype: torch.dtype, stream: bool = False) -> Cost:
    """The cost of a prompt and its negative, each of ``text_len`` tokens.

    ``stream``: blocks pass from host memory, where the embedding stays.
    """
    few = min(sizes.num_layers, 2 if stream else 1)
    one, two = (
        _traced(replace(sizes, num_layers=layers), text_len, dtype, stream)
        for layers in (few, few + 1)
    )
    more = sizes.num_layers - few
    work = 2 * (one.work + more * (two.work - one.work))
    weights = one.weights + more * (two.weights - one.weights)
    peak = weights + max(one.activations, two.activations)
    fetched = 2 * (one.fetched + more * (two.fetched - one.fetched))
    return Cost(weights, peak, work.flops, work.moved, fetched)


class _Traced(NamedTuple):
    work: Work
    weights: int
    activations: int
    fetched: int


def _traced(sizes: TextSizes, text_len: int, dtype: torch.dtype, stream: bool) -> _Traced:
    """One text through a whole encoder."""
    trace, fetched = Trace(), 0
    if stream:
        encoder = _encoder(sizes, text_len, dtype)
        stack = encoder.model.encoder
        fetched = sum(weight.nbytes for weight in stack.block.parameters())
    with torch.no_grad(), trace:
        if stream:
            encoder.stream_from_host(META, asynchronous=False)
            trace.allocated(stack.final_layer_norm.weight)
        else:
            encoder = _encoder(sizes, text_len, dtype)
        weights, before = trace.live, trace.work
        trace.restart_peak()
        encoder.model(inputs_embeds=torch.empty(1, text_len, sizes.dim, dtype=dtype, device=META))
    return _Traced(trace.work - before, weights, trace.peak - weights, fetched)


def _encoder(sizes: TextSizes, text_len: int, dtype: torch.dtype) -> TextEncoder:
    tokenizer: Any = ()  # only its length is asked for
    with META:
        return TextEncoder(sizes, tokenizer, text_len).to(dtype).requires_grad_(False)
