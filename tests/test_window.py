"""Attention inside windows: the tokens of each, dense layers and steps, anchor tokens, its cost."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_attention import network, velocity
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.config.parallel import Mesh
from pixelwizard.models.attention.base import Place
from pixelwizard.models.attention.exact import Exact, attention
from pixelwizard.models.attention.window import Window, windows
from pixelwizard.planning.planner import execution_modes

GRID = (3, 5, 7)
TOKENS = 105
CPU = torch.device("cpu")


def drawn(length: int = TOKENS, heads: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, length, heads, 8, generator=generator) for _ in range(3))


def masked(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """Dense attention in which query i sees key j where ``seen[i, j]``."""
    parts = (t.transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(*parts, attn_mask=seen).transpose(1, 2)


def same_window(size: tuple[int, int, int], shifted: bool) -> Tensor:
    number = torch.empty(TOKENS, dtype=torch.int64)
    for index, (tokens, _) in enumerate(windows(GRID, size, shifted, CPU)):
        number[torch.from_numpy(tokens)] = index
    return number[:, None] == number[None, :]


@pytest.mark.parametrize("size", [(0, 0, 0), (3, 5, 7), (9, 0, 8)])
def test_a_window_that_is_the_grid_is_exact_attention(size: tuple[int, int, int]) -> None:
    qkv = drawn()
    for layer in (0, 1):
        assert torch.equal(Window(size, anchor=[2, 2])(*qkv, Place(GRID, layer)), attention(*qkv))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4), (1, 5, 2), (0, 2, 1)])
def test_every_token_is_in_exactly_one_window(size: tuple[int, int, int], shifted: bool) -> None:
    found = windows(GRID, size, shifted, CPU)
    assert sorted(np.concatenate([tokens for tokens, _ in found])) == list(range(TOKENS))
    for tokens, _ in found:
        box = [len(set(axis)) for axis in np.unravel_index(tokens, GRID)]
        assert np.prod(box) == len(tokens)
        assert all(
            side <= (most or whole) for side, most, whole in zip(box, size, GRID, strict=True)
        )


def test_windows_of_odd_layers_lie_between_the_others() -> None:
    def rows(shifted: bool) -> list[list[int]]:
        return [tokens.tolist() for tokens, _ in windows((1, 1, 8), (0, 0, 4), shifted, CPU)]

    assert rows(False) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert rows(True) == [[0, 1], [2, 3, 4, 5], [6, 7]]
    qkv, made = drawn(), Window((0, 3, 4), shift=False)
    assert torch.equal(made(*qkv, Place(GRID, 0)), made(*qkv, Place(GRID, 1)))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_token_sees_its_window_in_every_chunk(layer: int) -> None:
    query, key, value = drawn()
    made, size = Window((2, 3, 4)), (2, 3, 4)
    expected = masked(query, key, value, same_window(size, layer == 1))
    assert torch.allclose(made(query, key, value, Place(GRID, layer)), expected, atol=1e-6)
    for start in range(0, TOKENS, 13):
        part = made(query[:, start : start + 13], key, value, Place(GRID, layer, start))
        assert torch.allclose(part, expected[:, start : start + 13], atol=1e-6)


def test_anchor_tokens_are_seen_from_every_window() -> None:
    query, key, value = drawn()
    coarse = []
    for x in (key, value):
        cells = x.unflatten(1, GRID)
        rows, columns = ((0, 3), (2, 5)), ((0, 3), (2, 5), (4, 7))  # as adaptive pooling cuts 5, 7
        means = [cells[:, :, a:b, c:d].mean((2, 3)) for (a, b), (c, d) in product(rows, columns)]
        coarse.append(torch.cat((x, torch.stack(means, dim=2).flatten(1, 2)), dim=1))
    seen = torch.cat((same_window((0, 3, 4), False), torch.ones(TOKENS, 18).bool()), dim=1)
    found = Window((0, 3, 4), anchor=[2, 3])(query, key, value, Place(GRID, 0))
    assert torch.allclose(found, masked(query, *coarse, seen), atol=1e-6)


def test_chosen_layers_and_early_steps_are_dense() -> None:
    qkv, made = drawn(), Window((0, 3, 4), dense_layers=[2], dense_above=0.9)
    exact = attention(*qkv)

    def dense(layer: int, sigma: float | None) -> bool:
        return torch.equal(made(*qkv, Place(GRID, layer, sigma=sigma)), exact)

    assert dense(2, 0.5) and dense(0, 0.95)
    assert not dense(0, 0.9) and not dense(1, None)


def test_heads_are_apart_as_on_ranks_that_share_a_sequence() -> None:
    qkv, made, place = drawn(), Window((0, 3, 4), anchor=[2, 2]), Place(GRID, 1)
    own = made(*(t[:, :, 1:] for t in qkv), place)
    assert torch.allclose(own, made(*qkv, place)[:, :, 1:], atol=1e-6)


def test_a_network_gives_the_same_in_chunks_and_learns() -> None:
    made = Window((0, 1, 3), dense_layers=[1], anchor=[1, 2])
    whole = velocity(network(made), chunk=100)
    assert torch.allclose(velocity(network(made), chunk=7), whole, atol=1e-5)
    assert not torch.allclose(velocity(network(Exact()), chunk=100), whole, atol=1e-2)
    trained = network(made)
    text = trained.encode_text([torch.randn(3, 16)])
    trained(torch.randn(1, 4, 3, 4, 8), torch.tensor([500.0]), text).square().mean().backward()
    gradient = trained.blocks[0].self_attn.k.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def pairs(stage: str, *words: str) -> float:
    """Operations of a stage's self-attentions, in those of one dense layer of the detail stage."""
    config = compose("plan", ["backbone=tiny", "resolution=demo", *words])[0].config
    work = next(execution_modes(stage, config, Mesh(), math.inf)).cost.flops["attention"]
    return work / (4 * 192 * (5 * 10 * 16) ** 2)


def test_a_plan_counts_the_pairs_of_every_layer_and_step() -> None:
    exact = pairs("detail")
    half = "attention={name: window, size: [0, 0, 8]}"
    assert pairs("anchor") == pairs("anchor", half)  # its grid is one window
    saved = 2 * (1 - 1 / 2) + 2 * (1 - 3 / 8)  # two plain and two shifted layers
    assert exact - pairs("detail", half) == pytest.approx(4 * saved)
    early = "attention={name: window, size: [0, 0, 8], dense_above: 0.99, dense_layers: [1, 3]}"
    assert exact - pairs("detail", early) == pytest.approx(3 * 2 * (1 - 1 / 2))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("size: [4, 4]", "attention.size=[4, 4] must be three numbers: frames, rows, columns"),
        ("size: [0, -1, 4]", "attention.size=-1 must be at least 0; nearest: 0"),
        ("size: wide", "attention.size=wide must be a list"),
        ("anchor: [3]", "attention.anchor=[3] must be two numbers: rows, columns"),
        ("dense_above: 1.5", "attention.dense_above=1.5 must be at most 1.0; nearest: 1.0"),
        ("dense_layers: [first]", "attention.dense_layers"),
        ("sise: [0, 4, 4]", "sise"),
    ],
)
def test_impossible_windows_are_one_sentence(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["resolution=demo", f"attention={{name: window, {arguments}}}"]
    assert main(["plan", "backbone=tiny", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
