"""What the text stage will need: the real encoder traced, one layer counted as often as it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from pixelwizard.sampling_cost import META, Cost
from pixelwizard.settings import TextSizes
from pixelwizard.tracing import Trace
from pixelwizard.wan.umt5 import TextEncoder


def cost_of_text(sizes: TextSizes, text_len: int, dtype: torch.dtype) -> Cost:
    """The cost of a prompt and its negative, each of ``text_len`` tokens."""
    one, two = (_traced(replace(sizes, num_layers=layers), text_len, dtype) for layers in (1, 2))
    more = sizes.num_layers - 1
    flops: Counter[str] = Counter()
    for kind in two.flops:
        flops[kind] = 2 * (one.flops[kind] + more * (two.flops[kind] - one.flops[kind]))
    weights = one.weights + more * (two.weights - one.weights)
    moved = 2 * (one.moved + more * (two.moved - one.moved))
    return Cost(weights, weights + max(c.peak - c.weights for c in (one, two)), flops, moved)


def _traced(sizes: TextSizes, text_len: int, dtype: torch.dtype) -> Cost:
    tokenizer: Any = ()  # only its length is asked for
    trace = Trace()
    with torch.no_grad(), trace:
        with META:
            encoder = TextEncoder(sizes, tokenizer, text_len).to(dtype)
        weights = trace.live
        trace.restart_peak()
        before, moved = Counter(trace.flops), trace.moved
        encoder.model(input_ids=torch.empty(1, text_len, dtype=torch.int64, device=META))
    return Cost(weights, trace.peak, trace.flops - before, trace.moved - moved)
