"""Another attention, through the door: in every pass, chunk, rank, plan, training and key."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import small_config, write_backbone
from torch import Tensor

from pixelwizard.cli.main import main
from pixelwizard.config.backbone import DiTSizes
from pixelwizard.config.generate import ATTENTION
from pixelwizard.config.schema import identity
from pixelwizard.config.targets import Target
from pixelwizard.data.prompts import prompts_of
from pixelwizard.generation.placement import ModelLoader
from pixelwizard.models.attention import auto
from pixelwizard.models.attention.base import Attention, Place
from pixelwizard.models.attention.exact import Exact, attention
from pixelwizard.models.wan.dit import WanDiT, _attend
from pixelwizard.models.weights import load_anchor
from pixelwizard.records.provenance import make_jobs

GRID = (3, 2, 4)
SIZES = DiTSizes(
    in_dim=4, out_dim=4, dim=48, ffn_dim=64, freq_dim=16, text_dim=16, text_len=4, num_heads=2,
    num_layers=2,
)  # fmt: skip


class OwnFrame(Attention):
    """Every token sees the tokens of its frame; in every ``dense``-th layer all."""

    def __init__(self, dense: int = 0) -> None:
        self.dense, self.places = dense, []

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, place: Place) -> Tensor:
        self.places.append(place)
        if self.dense and place.layer % self.dense == 0:
            return attention(query, key, value)
        row = place.grid[1] * place.grid[2]
        out = []
        for token in range(place.start, place.start + query.shape[1]):
            frame = slice(token // row * row, token // row * row + row)
            one = query[:, token - place.start : token - place.start + 1]
            out.append(attention(one, key[:, frame], value[:, frame]))
        return torch.cat(out, dim=1)


def network(made: Attention) -> WanDiT:
    torch.manual_seed(0)
    found = WanDiT(SIZES)
    for weight in found.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    found.attention = made
    return found


def velocity(found: WanDiT, chunk: int) -> Tensor:
    found.chunk = chunk
    draw = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, GRID[0], 2 * GRID[1], 2 * GRID[2], generator=draw)
    with torch.no_grad():
        text = found.encode_text([torch.randn(3, 16, generator=draw)])
        return found(latent, torch.tensor([500.0]), text)


def test_an_attention_is_told_grid_layer_and_first_query_and_chunks_change_nothing() -> None:
    whole = velocity(network(OwnFrame()), chunk=100)
    parts = network(made := OwnFrame())
    assert torch.allclose(velocity(parts, chunk=7), whole, atol=1e-5)
    assert not torch.allclose(velocity(network(Exact()), chunk=100), whole, atol=1e-2)
    starts = (0, 7, 14, 21)
    assert made.places == [Place(GRID, layer, start) for layer in (0, 1) for start in starts]


def test_a_layer_may_differ_from_the_others() -> None:
    exact, frames = (velocity(network(made), 100) for made in (Exact(), OwnFrame()))
    mixed = velocity(network(OwnFrame(dense=2)), 100)
    assert not torch.allclose(mixed, exact) and not torch.allclose(mixed, frames)
    assert torch.equal(velocity(network(OwnFrame(dense=1)), 100), exact)


def test_a_run_hands_it_to_its_transformers(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "weights")
    config = replace(
        small_config(backbone, tmp_path / "run"),
        attention=Target(f"{__name__}.OwnFrame", {"dense": 3}),
    )
    loaded = ModelLoader(config, None).load(
        "anchor", load_anchor, torch.device("cpu"), torch.float32
    )
    assert isinstance(loaded.attention, OwnFrame) and loaded.attention.dense == 3


def test_only_another_attention_is_part_of_the_keys(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "weights")
    config = small_config(backbone, tmp_path / "run")
    assert "attention" not in identity(config)
    parts = dict.fromkeys(("text_encoder", "anchor", "detail", "vae"), "digest")

    def keys(part: Target | str) -> tuple[str, ...]:
        changed = replace(config, attention=part)
        (job, *_) = make_jobs(changed, prompts_of(changed), parts)
        return job.text_key, job.anchor_key, job.detail_key

    exact, own = keys("exact"), keys(Target(f"{__name__}.OwnFrame"))
    assert exact[0] == own[0] and exact[1] != own[1] and exact[2] != own[2]
    assert keys(Target(f"{__name__}.OwnFrame", {"dense": 2}))[1] != own[1]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (
            "attention=exakt",
            "attention=exakt must be one of auto, exact, t3, window; did you mean",
        ),
        ("attention._target_=torch.nn.Linear", "must be a subclass of"),
        ("attention._target_=nowhere.Window", "there is no module nowhere"),
    ],
)
def test_what_is_no_attention_is_refused(
    word: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "backbone=tiny", word]) == 2
    assert sentence in capsys.readouterr().err


WINDOW = """
from pixelwizard.models.attention.base import Attention
from pixelwizard.models.attention.exact import attention


class Half(Attention):
    def __call__(self, query, key, value, place):
        return attention(query, key[:, ::2], value[:, ::2])
"""


class FirstQuery(Attention):
    """Answers for the first query alone, which would be spread over all."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, place: Place) -> Tensor:
        return attention(query[:, :1], key, value)


def test_an_attention_that_returns_another_shape_is_stopped() -> None:
    query = torch.zeros(1, 8, 2, 4)
    with pytest.raises(ValueError, match=r"FirstQuery returned a tensor of \[1, 1, 2, 4\]; it mu"):
        _attend(FirstQuery(), Place((1, 2, 4), 0), query, query, query)


def test_a_plan_counts_what_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    (tmp_path / "window.py").write_text(WINDOW, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = []
    for word in ("attention=exact", "attention._target_=window.Half"):
        assert main(["plan", "backbone=tiny", "resolution=540p", word, "format=json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["stages"])
    exact, half = ([stage["tflop"] for stage in stages] for stages in found)
    assert exact[0] == half[0] and half[1] < exact[1] and half[2] < 0.7 * exact[2]


def test_a_training_learns_with_it() -> None:
    made = network(OwnFrame())
    latent = torch.randn(1, 4, GRID[0], 2 * GRID[1], 2 * GRID[2])
    text = made.encode_text([torch.randn(3, 16)])
    made(latent, torch.tensor([500.0]), text).square().mean().backward()
    gradient = made.blocks[0].self_attn.q.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    assert ATTENTION.names == ["auto", "exact", "t3", "window"]


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three kernels that stand in for a processor's, by name whenever one is called."""
    calls: list[str] = []

    def kernel(name: str, seconds: float | None) -> auto.Kernel:
        def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            calls.append(name)
            if seconds is None:
                raise RuntimeError("no such kernel here")
            clock[0] += seconds
            return attention(query, key, value)

        return run

    clock = [0.0]
    monkeypatch.setattr(auto, "_now", lambda like: clock[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = {"absent": kernel("absent", None), "slow": kernel("slow", 2), "fast": kernel("fast", 1)}
    monkeypatch.setitem(auto.KERNELS, "cpu", made)
    return calls


def test_the_fastest_kernel_is_found_once_and_kept(tried: list[str]) -> None:
    place, (query, key, value) = Place((1, 2, 5), 0), torch.randn(3, 1, 10, 2, 4)
    expected = attention(query, key, value)
    for first in (True, False):
        tried.clear()
        made = auto.Auto()
        for part in (slice(0, 6), slice(6, 10)):
            found = made(query[:, part], key, value, place)
            assert torch.equal(found, attention(query[:, part], key, value))
        assert made.kernel == "fast" and ("slow" in tried) == first
    assert torch.allclose(auto.Auto()(query, key, value, place), expected)
    auto.choices().write_text("{")
    tried.clear()
    auto.Auto()(query, key, value, place)
    assert "slow" in tried and list(json.loads(auto.choices().read_text()).values()) == ["fast"]


def test_a_network_with_the_fastest_attention_gives_the_same_velocity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made, exact = network(auto.Auto()), network(Exact())
    inputs = torch.randn(1, 4, 2, 8, 12), torch.tensor([500.0])
    text = exact.encode_text([torch.randn(3, SIZES.text_dim)])
    with torch.no_grad():
        assert torch.allclose(made(*inputs, text), exact(*inputs, text), atol=1e-5)
    assert made.attention.kernel in auto.KERNELS["cpu"]
    made(*inputs, text).sum().backward()
