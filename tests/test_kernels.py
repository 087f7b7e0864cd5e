"""The work between the attentions of a block: the same compiled, few bytes, few tensors alive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from small import BACKBONE, randomise
from torch import Tensor

from pixelwizard.config.backbone import DiTSizes
from pixelwizard.models.attention.exact import attention
from pixelwizard.models.wan import kernels
from pixelwizard.models.wan.dit import Block, WanDiT
from pixelwizard.models.wan.kernels import PLAIN, Fused, Kernels, Rotary, compiled, linear
from pixelwizard.planning.device import META, Trace

GRID = (4, 45, 80)
"""Some frames of 2560x1440; bytes are linear in the tokens."""


def block_bytes(functions: Kernels, chunk: int) -> float:
    """Bytes that a full-size block moves besides linears and attention, in [L, E] of float32."""
    sizes, length = DiTSizes(), GRID[0] * GRID[1] * GRID[2]
    with META:
        network = WanDiT(DiTSizes(num_layers=1)).to(torch.bfloat16).requires_grad_(False)
        x = torch.empty(1, length, sizes.dim)
        modulation = torch.empty(1, 1, 6, sizes.dim)
    network.use(functions)
    block: Block = network.blocks[0]
    rotary = Rotary(GRID, sizes.dim // sizes.num_heads, META, slice(0, length))
    rotary.table(0, 1)
    with torch.no_grad():
        text = block.text_keys_values(torch.empty(1, 512, sizes.dim, device=META).bfloat16())
        with Trace() as trace:
            block(x, modulation, rotary, text, chunk)
    return trace.moved / x.nbytes


def test_a_compiled_full_size_block_moves_at_most_25_units() -> None:
    assert 15 < block_bytes(compiled(), 8192) <= 25
    assert block_bytes(PLAIN, 8192) > 60


@torch.no_grad()
def test_a_forward_without_chunks_keeps_fewer_tensors_alive_than_diffusers() -> None:
    """diffusers: 13.8 of [tokens, dim] in float32, by ``bench against=diffusers``."""
    sizes = DiTSizes(dim=384, num_heads=6, ffn_dim=1792, num_layers=2, text_dim=1024)
    with META:
        network = WanDiT(sizes).requires_grad_(False)
        latent, text = torch.empty(1, 48, 7, 32, 64), torch.empty(512, 1024)
        keys_values = network.encode_text([text])
        with Trace() as trace:
            network(latent, torch.empty(1), keys_values)
    assert trace.peak / (4 * 3584 * 384) < 13.8


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The graphs that a compiler was given; it runs them operation by operation."""
    graphs: list[int] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, dynamic: real(f, dynamic=dynamic, backend=compiler)
    )
    compiled.cache_clear()
    torch._dynamo.reset()
    yield graphs
    compiled.cache_clear()
    torch._dynamo.reset()


@torch.no_grad()
def test_compiled_once_for_all_blocks_sizes_and_networks(counted: list[int]) -> None:
    torch.manual_seed(0)
    network = randomise(WanDiT(BACKBONE.dit))
    text = network.encode_text([torch.randn(3, BACKBONE.dit.text_dim)])
    seen = []
    for height, chunk in ((8, 17), (12, 13), (16, 11)):
        latent, when = torch.randn(1, 4, 2, height, 12), torch.tensor([500.0])
        network.chunk = chunk
        network.use(PLAIN)
        expected = network(latent, when, text)
        network.use(compiled())
        assert torch.allclose(network(latent, when, text), expected, atol=1e-6)
        seen.append(len(counted))
    assert seen[0] > 0 and seen[1] == seen[2]


def test_a_function_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, dynamic: bool) -> object:
        def run(*arguments: object) -> None:
            raise RuntimeError("no compiler here")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    fused = Fused(kernels.after_feed_forward)
    x = torch.ones(1, 2, 3)
    with pytest.warns(UserWarning, match="after_feed_forward is not compiled: no compiler here"):
        result = fused(x, x, x, torch.float32)
    assert torch.equal(result, 2 * x) and torch.equal(fused(x, x, x, torch.float32), 2 * x)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
def test_a_linear_without_gradients_equals_the_plain_one(dtype: torch.dtype, gelu: bool) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 48).to(dtype), torch.randn(2, 33, 64, dtype=dtype)
    expected = layer(x)
    if gelu:
        expected = torch.nn.functional.gelu(expected, approximate="tanh")
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert torch.allclose(linear(layer, x, gelu), expected, atol=tolerance)


@torch.no_grad()
def test_long_attention_in_bfloat16_on_a_cpu_is_as_exact_as_the_fused_kernel() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 600, 2, 64) for _ in range(3))
    exact = attention(query, key, value)
    rounded = [tensor.bfloat16() for tensor in (query, key, value)]
    fused = torch.nn.functional.scaled_dot_product_attention(
        *(tensor.transpose(1, 2) for tensor in rounded)
    ).transpose(1, 2)
    error = (attention(*rounded).float() - exact).square().mean()
    assert error < 2 * (fused.float() - exact).square().mean()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [300, 1100])  # all rows of scores at once, and 476 at a time
def test_how_many_rows_of_scores_are_there_at_a_time_changes_no_more_than_rounding(
    tokens: int,
) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, tokens, 2, 64).bfloat16() for _ in range(3))
    whole = attention(query, key, value)
    assert whole.abs().mean() > 0.01
    assert torch.allclose(attention(query[:, 30:], key, value), whole[:, 30:], rtol=0, atol=1e-3)
