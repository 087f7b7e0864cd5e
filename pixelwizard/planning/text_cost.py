"""What the text stage will need: the real encoder traced, one layer counted as often as it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from pixelwizard.config.sizes import TextSizes
from pixelwizard.models.wan.umt5 import TextEncoder
from pixelwizard.planning.sampling_cost import META, Cost
from pixelwizard.planning.tracing import Trace


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
    flops: Counter[str] = Counter()
    for kind in two.flops:
        flops[kind] = 2 * (one.flops[kind] + more * (two.flops[kind] - one.flops[kind]))
    weights = one.weights + more * (two.weights - one.weights)
    moved = 2 * (one.moved + more * (two.moved - one.moved))
    fetched = 2 * (one.fetched + more * (two.fetched - one.fetched))
    peak = weights + max(c.peak - c.weights for c in (one, two))
    return Cost(weights, peak, flops, moved, fetched)


def _traced(sizes: TextSizes, text_len: int, dtype: torch.dtype, stream: bool) -> Cost:
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
        weights = trace.live
        trace.restart_peak()
        before, moved = Counter(trace.flops), trace.moved
        encoder.model(inputs_embeds=torch.empty(1, text_len, sizes.dim, dtype=dtype, device=META))
    return Cost(weights, trace.peak, trace.flops - before, trace.moved - moved, fetched)


def _encoder(sizes: TextSizes, text_len: int, dtype: torch.dtype) -> TextEncoder:
    tokenizer: Any = ()  # only its length is asked for
    with META:
        return TextEncoder(sizes, tokenizer, text_len).to(dtype).requires_grad_(False)
