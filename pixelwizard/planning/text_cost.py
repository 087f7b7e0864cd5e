"""The cost of encoding texts: the real encoder, traced with a few of its equal layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.models.wan.quantised import quantise_linears
from pixelwizard.models.wan.umt5 import TextEncoder
from pixelwizard.planning.device import META, Trace, Work
from pixelwizard.planning.transformer_cost import Cost


def cost_of_text(backbone: BackboneSettings, stream: bool) -> Cost:
    """The cost of a prompt and its negative, each as long as can be.

    ``stream``: blocks pass from host memory, where the embedding stays.
    """
    layers = backbone.text.num_layers
    few = min(layers, 2 if stream else 1)
    (one, few_active, first), (two, more_active, second) = (
        _traced(backbone, count, stream) for count in (few, few + 1)
    )
    more = layers - few
    work = 2 * (one + more * (two - one))
    weights, fetched, host, loaded = (
        small + more * (large - small) for small, large in zip(first, second, strict=True)
    )
    peak = weights + max(few_active, more_active)
    return Cost(weights, peak, work.flops, work.moved, 2 * fetched, host=host, loaded=loaded)


def _traced(
    backbone: BackboneSettings, layers: int, stream: bool
) -> tuple[Work, int, tuple[int, int, int, int]]:
    """One text through so many layers: its work, the bytes of its activations, and others.

    Those grow with every layer: bytes of weights, fetched, held on the host, loaded.
    """
    trace, fetched, host = Trace(), 0, 0
    size = (1, backbone.dit.text_len, backbone.text.dim)
    if stream:
        encoder = _encoder(backbone, layers)
        encoder.stream_from_host(META, asynchronous=False)
        stack: Any = encoder.model.encoder
        fetched = sum(packed.flat.nbytes for packed in stack.block.packed)
        host = fetched + encoder.model.shared.weight.nbytes
    with torch.no_grad(), trace:
        if stream:
            for weight in (*stack.block.buffers, stack.final_layer_norm.weight):
                trace.allocated(weight)
        else:
            encoder = _encoder(backbone, layers)
        weights, before = trace.live, trace.work
        trace.restart_peak()
        dtype = getattr(torch, backbone.dtype)
        encoder.model(inputs_embeds=torch.empty(size, dtype=dtype, device=META))
    loaded = host + stack.final_layer_norm.weight.nbytes if stream else weights
    return trace.work - before, trace.peak - weights, (weights, fetched, host, loaded)


def _encoder(backbone: BackboneSettings, layers: int) -> TextEncoder:
    """An encoder of so many layers, its linears in 8 bits where the backbone says so."""
    sizes = replace(backbone.text, num_layers=layers)
    tokenizer: Any = ()  # only its length is asked for
    with META:
        encoder = TextEncoder(sizes, tokenizer, backbone.dit.text_len)
        encoder = encoder.to(getattr(torch, backbone.dtype)).requires_grad_(False)
        if backbone.quantize_text is not None:
            quantise_linears(encoder.model.encoder, backbone.quantize_text)
    return encoder
