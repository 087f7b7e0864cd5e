"""The cost of encoding texts: the real encoder, traced with a few of its equal layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pixelwizard.config.backbone import TextSizes
from pixelwizard.models.wan.quantised import quantise_linears
from pixelwizard.models.wan.umt5 import TextEncoder
from pixelwizard.planning.device import META, Trace, Work
from pixelwizard.planning.transformer_cost import Cost


def cost_of_text(
    sizes: TextSizes,
    text_len: int,
    dtype: torch.dtype,
    stream: bool = False,
    quantize: str | None = None,
) -> Cost:
    """The cost of a prompt and its negative, each of ``text_len`` tokens.

    ``stream``: blocks pass from host memory, where the embedding stays. ``quantize``: their
    linears are in 8 bits.
    """
    few = min(sizes.num_layers, 2 if stream else 1)
    (one, few_active, first), (two, more_active, second) = (
        _traced(replace(sizes, num_layers=layers), text_len, dtype, stream, quantize)
        for layers in (few, few + 1)
    )
    more = sizes.num_layers - few
    work = 2 * (one + more * (two - one))
    weights, fetched, host, loaded = (
        small + more * (large - small) for small, large in zip(first, second, strict=True)
    )
    peak = weights + max(few_active, more_active)
    return Cost(weights, peak, work.flops, work.moved, 2 * fetched, host=host, loaded=loaded)


def _traced(
    sizes: TextSizes, text_len: int, dtype: torch.dtype, stream: bool, quantize: str | None
) -> tuple[Work, int, tuple[int, int, int, int]]:
    """One text through a whole encoder: its work, the bytes of its activations, and others.

    Those grow with every layer: bytes of weights, fetched, held on the host, loaded.
    """
    trace, fetched, host = Trace(), 0, 0
    if stream:
        encoder = _encoder(sizes, text_len, dtype, quantize)
        encoder.stream_from_host(META, asynchronous=False)
        stack: Any = encoder.model.encoder
        fetched = sum(packed.flat.nbytes for packed in stack.block.packed)
        host = fetched + encoder.model.shared.weight.nbytes
    with torch.no_grad(), trace:
        if stream:
            for weight in (*stack.block.buffers, stack.final_layer_norm.weight):
                trace.allocated(weight)
        else:
            encoder = _encoder(sizes, text_len, dtype, quantize)
        weights, before = trace.live, trace.work
        trace.restart_peak()
        encoder.model(inputs_embeds=torch.empty(1, text_len, sizes.dim, dtype=dtype, device=META))
    loaded = host + stack.final_layer_norm.weight.nbytes if stream else weights
    return trace.work - before, trace.peak - weights, (weights, fetched, host, loaded)


def _encoder(
    sizes: TextSizes, text_len: int, dtype: torch.dtype, quantize: str | None
) -> TextEncoder:
    tokenizer: Any = ()  # only its length is asked for
    with META:
        encoder = TextEncoder(sizes, tokenizer, text_len).to(dtype).requires_grad_(False)
        if quantize is not None:
            quantise_linears(encoder.model.encoder, quantize)
    return encoder
