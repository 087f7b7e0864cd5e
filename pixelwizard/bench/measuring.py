"""How seconds and bytes are measured, and networks with random weights to measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.models.shortcut.network import make_detail
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.umt5 import TextEncoder, official_shapes
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import fill, frozen, shapes_of
from pixelwizard.planning.device import Trace

ROUNDS = 5
ENOUGH_SECONDS = 10.0
Network = TypeVar("Network", bound=nn.Module)
Loader = Callable[[BackboneSettings, torch.device, torch.dtype], Network]


class Peak:
    """A context that finds the most bytes alive on ``device``, ``before`` among them.

    On a GPU the allocator's figure; elsewhere that of live tensors, whose counting slows the
    computation down (``slow``).
    """

    def __init__(self, device: torch.device, before: Iterable[Tensor] = ()) -> None:
        self.device, self.slow, self.bytes = device, device.type != "cuda", 0
        self._before = before
        self._trace = Trace(computing=True)
        self._context = ExitStack()

    def __enter__(self) -> Peak:
        if self.slow:
            self._context.enter_context(self._trace)
            for tensor in self._before:
                self._trace.allocated(tensor)
        else:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.close()
        self.bytes = self._trace.peak if self.slow else torch.cuda.max_memory_allocated(self.device)


def in_turns(
    calls: Sequence[Callable[[], Any]],
    clock: Callable[[], float],
    rounds: int = ROUNDS,
    enough: float = ENOUGH_SECONDS,
) -> list[float]:
    """The fastest seconds of each call; calls alternate, so a busy moment affects them all.

    After ``enough`` seconds no further round begins.
    """
    best, end = [math.inf] * len(calls), clock() + enough
    for _ in range(rounds):
        for index, call in enumerate(calls):
            started = clock()
            call()
            best[index] = min(best[index], clock() - started)
        if clock() > end:
            break
    return best


def random_text_encoder(
    backbone: BackboneSettings, device: torch.device, dtype: torch.dtype
) -> TextEncoder:
    """A text encoder for token numbers; it has no tokenizer."""
    tokenizer: Any = ()
    with torch.device("meta"):
        encoder = TextEncoder(backbone.text, tokenizer, backbone.dit.text_len)
    weights = {n: _random(s, device, dtype) for n, s in official_shapes(backbone.text).items()}
    encoder.load_official(weights)
    return frozen(encoder)


def random_network(make: Callable[[BackboneSettings], Network]) -> Loader[Network]:
    """What makes a network on the meta device and fills it on a device, a tensor at a time."""

    def load(backbone: BackboneSettings, device: torch.device, dtype: torch.dtype) -> Network:
        with torch.device("meta"):
            network = make(backbone)
        return fill(network, random_weights(network, device, dtype), device, dtype)

    return load


def random_weights(
    network: nn.Module, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Random tensors for all weights of a network."""
    return {name: _random(shape, device, dtype) for name, shape in shapes_of(network).items()}


def _random(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Vectors around one, as norms have them; matrices that keep the size of their input."""
    weight = torch.randn(*shape, device=device, dtype=dtype)
    if len(shape) == 1:
        return weight.mul_(0.1).add_(1)
    return weight.mul_(math.prod(shape[1:]) ** -0.5)


random_anchor = random_network(lambda backbone: WanDiT(backbone.dit))
random_detail = random_network(
    lambda b: make_detail(b.detail_network, b.detail_dit, b.control_blocks)
)


def random_vae(backbone: BackboneSettings, device: torch.device, dtype: torch.dtype) -> WanVAE:
    """An autoencoder, laid out as a loaded one."""
    return random_network(lambda b: WanVAE(b.vae))(backbone, device, dtype).lay_out()
