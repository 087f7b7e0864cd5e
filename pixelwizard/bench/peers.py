"""Our networks against those of diffusers: the same random weights and inputs, called in turns.

diffusers' modules are ``WanTransformer3DModel`` and ``AutoencoderKLWan``. On a CPU one thread runs
and processor seconds count, so that other jobs disturb the ratios little. What our transformer
computes once per video, the text's keys and values, is prepared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pixelwizard.bench.forwards import TIMESTEP
from pixelwizard.bench.measuring import Peak, in_turns, random_weights
from pixelwizard.bench.rates import now
from pixelwizard.bench.report import PeerResult
from pixelwizard.config.backbone import DiTSizes, VAESizes
from pixelwizard.config.geometry import PATCH
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.kernels import chosen, reorder_linears
from pixelwizard.models.wan.layouts import official_dit, official_vae
from pixelwizard.models.wan.vae import WanVAE

Call = Callable[[], Tensor]
Grid = tuple[int, int, int]
DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = 11
"""Calls of each, in turns; the fastest counts, so other jobs on the machine disturb little."""


class Transformers:
    """One forward for a latent ``grid`` [T, H, W]; ``unit`` is a [tokens, dim] float32 tensor."""

    name = "transformer"

    def __init__(self, sizes: DiTSizes, grid: Grid) -> None:
        tokens = grid[0] * (grid[1] // PATCH) * (grid[2] // PATCH)
        self.size, self.unit = f"{tokens} tokens", 4 * tokens * sizes.dim
        self.sizes, self.grid = sizes, grid
        self.ours, self.theirs = WanDiT(sizes), their_dit(sizes)

    def official(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their weights under our names."""
        return official_dit(weights)

    def calls(self, device: torch.device, dtype: torch.dtype) -> list[Call]:
        """Ours and theirs on the same random input, ready to be called."""
        sizes, theirs = self.sizes, self.theirs
        latent = torch.randn(1, sizes.in_dim, *self.grid, device=device)
        text = torch.randn(1, sizes.text_len, sizes.text_dim, device=device, dtype=dtype)
        timestep = torch.tensor([TIMESTEP], device=device)
        keys_values, rounded = self.ours.encode_text([text[0]]), latent.to(dtype)
        return [
            lambda: self.ours(latent, timestep, keys_values),
            lambda: theirs(rounded, timestep, text, return_dict=False)[0],
        ]


class Autoencoders:
    """The decode of a latent ``grid`` [T, H, W]; ``unit`` is the video in float32."""

    name = "decode"

    def __init__(self, sizes: VAESizes, grid: Grid) -> None:
        frames, height, width = 4 * grid[0] - 3, 16 * grid[1], 16 * grid[2]
        self.size, self.unit = f"{width}x{height}, {frames} frames", 12 * frames * height * width
        still = {"latent_mean": [0.0] * sizes.z_dim, "latent_std": [1.0] * sizes.z_dim}
        self.sizes, self.grid = replace(sizes, **still), grid
        self.ours, self.theirs = WanVAE(self.sizes).lay_out(), their_vae(self.sizes)

    def official(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their weights under our names."""
        return official_vae(weights, self.sizes.num_res_blocks)

    def calls(self, device: torch.device, dtype: torch.dtype) -> list[Call]:
        """Ours and theirs on the same random input, ready to be called."""
        latent = torch.randn(1, self.sizes.z_dim, *self.grid, device=device, dtype=dtype)
        return [
            lambda: self.ours.decode(latent).clamp(-1, 1),
            lambda: self.theirs.decode(latent, return_dict=False)[0],
        ]


Pair = Transformers | Autoencoders
"""A network of ours and theirs at one size; ``unit``: bytes in which memory is told."""


def pairs(device: torch.device) -> Iterator[Pair]:
    """What is compared: full width with two blocks on a GPU, an eighth of it on a CPU."""
    if device.type == "cuda":
        dit, vae = replace(DiTSizes(), num_layers=2), VAESizes()
        latents, decoded = [(31, 16, 28), (31, 44, 80)], (3, 44, 80)
    else:
        small = {"dim": 384, "num_heads": 6, "ffn_dim": 1792, "num_layers": 4, "text_dim": 1024}
        dit, vae = replace(DiTSizes(), **small), replace(VAESizes(), dim=32, dec_dim=64)
        latents, decoded = [(4, 32, 32), (7, 32, 64)], (3, 8, 12)
    for latent in latents:
        yield Transformers(dit, latent)
    yield Autoencoders(vae, decoded)


def against_diffusers(device: torch.device) -> Iterator[PeerResult]:
    """Every pair in every dtype, as soon as it is measured."""
    for dtype in DTYPES:
        for pair in pairs(device):
            yield compared(pair, device, dtype)


@torch.inference_mode()
def compared(pair: Pair, device: torch.device, dtype: torch.dtype) -> PeerResult:
    """Seconds, memory besides weights and input, and the largest difference of the results."""
    torch.manual_seed(0)
    weights = random_weights(pair.theirs, device, dtype)
    pair.theirs.load_state_dict(weights)
    place(pair.theirs, device, dtype)
    pair.ours.to(device, dtype).load_state_dict(pair.official(weights))
    pair.ours.use(chosen("auto", device.type == "cuda"))
    if device.type == "cpu":
        reorder_linears(pair.ours)
    calls = pair.calls(device, dtype)
    with _one_thread(device):
        (result, peak), (expected, their_peak) = (_once(call, device) for call in calls)
        # The seconds of the processor on a CPU.
        clock = (lambda: now(device)) if device.type == "cuda" else time.process_time
        seconds, their_seconds = in_turns(calls, clock, ROUNDS, math.inf)
    return PeerResult(
        name=pair.name,
        dtype=str(dtype).removeprefix("torch."),
        size=pair.size,
        seconds=seconds,
        their_seconds=their_seconds,
        peak_units=peak / pair.unit,
        their_peak_units=their_peak / pair.unit,
        difference=((result - expected).abs().max() / expected.abs().max()).item(),
    )


def place(theirs: Any, device: torch.device, dtype: torch.dtype) -> None:
    """As their ``from_pretrained(torch_dtype=...)`` does: some layers stay in float32."""
    nn.Module.to(theirs.eval(), device, dtype)
    for name, weight in theirs.named_parameters():
        if any(part in name for part in theirs._keep_in_fp32_modules or ()):
            weight.data = weight.data.float()


def _once(call: Call, device: torch.device) -> tuple[Tensor, int]:
    """The result in float32, and the most bytes alive besides those that were before."""
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with Peak(device) as peak:
        result = call()
    return result.float(), peak.bytes - before


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def named(sizes: DiTSizes) -> dict[str, Any]:
    """The sizes of a transformer by diffusers' names."""
    return dict(
        num_attention_heads=sizes.num_heads,
        attention_head_dim=sizes.dim // sizes.num_heads,
        in_channels=sizes.in_dim,
        out_channels=sizes.out_dim,
        text_dim=sizes.text_dim,
        freq_dim=sizes.freq_dim,
        ffn_dim=sizes.ffn_dim,
        num_layers=sizes.num_layers,
        eps=sizes.eps,
    )


def their_dit(sizes: DiTSizes) -> Any:
    """diffusers' transformer of these sizes."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(patch_size=(1, PATCH, PATCH), **named(sizes))


def their_vae(sizes: VAESizes) -> Any:
    """diffusers' autoencoder of these sizes."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=sizes.dim,
        decoder_base_dim=sizes.dec_dim,
        z_dim=sizes.z_dim,
        dim_mult=list(sizes.dim_mult),
        num_res_blocks=sizes.num_res_blocks,
        temperal_downsample=list(sizes.temporal_downsample),
        latents_mean=list(sizes.latent_mean),
        latents_std=list(sizes.latent_std),
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
