"""Weights of 8 bits: error, loading, converting, the plan, and what refuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small import small_config, write_backbone

from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import ATTENTION
from pixelwizard.config.parallel import Mesh
from pixelwizard.data.prompts import prompts_of
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.wan.quantised import QuantisedLinear, quantised
from pixelwizard.models.wan.streaming import BlockStream
from pixelwizard.models.weights import convert, load_anchor, load_detail, load_text_encoder
from pixelwizard.planning.planner import execution_modes
from pixelwizard.records.provenance import make_jobs

KINDS = ["int8", "fp8"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("weights"))


def velocity(settings: BackboneSettings) -> torch.Tensor:
    network = load_anchor(settings)
    draw = torch.Generator().manual_seed(0)
    text = network.encode_text([torch.randn(3, settings.text.dim, generator=draw)])
    latent = torch.randn(1, settings.dit.in_dim, 2, 4, 4, generator=draw)
    with torch.no_grad():
        return network(latent, torch.tensor([500.0]), text)


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.5 / 127), ("fp8", 1 / 16)])
def test_a_rounded_weight_is_within_half_a_step(kind: str, most: float) -> None:
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * 10.0
    weight[2] = 0.0
    rounded, scale = quantised(weight, kind)
    assert rounded.element_size() == 1 and scale.shape == (5, 1)
    error = (rounded.float() * scale - weight).abs()
    bound = weight.abs().amax(1, keepdim=True) if kind == "int8" else weight.abs()
    assert (error <= most * bound + 1e-2 * scale).all()


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_linears_of_blocks_are_quantised_and_the_result_stays_near(
    kind: str, backbone: BackboneSettings
) -> None:
    small = replace(backbone, quantize=kind)
    network = load_detail(small)
    kinds = {name: type(module) for name, module in network.named_modules()}
    inside = {n for n, found in kinds.items() if found is QuantisedLinear}
    assert len(inside) == 10 * backbone.detail_dit.num_layers
    assert all(name.startswith("blocks.") for name in inside)
    exact, near = velocity(backbone), velocity(small)
    error = (near - exact).norm() / exact.norm()
    assert 0 < error < (0.02 if kind == "int8" else 0.06)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_the_text_encoders_linears_are_in_int8_and_its_result_stays_near(
    kind: str, backbone: BackboneSettings
) -> None:
    def encoded(quantize: str | None, streamed: bool = False) -> torch.Tensor:
        encoder = load_text_encoder(replace(backbone, quantize=quantize))
        found = [m for m in encoder.modules() if isinstance(m, QuantisedLinear)]
        assert len(found) == (7 * backbone.text.num_layers if quantize else 0)
        assert all(linear.weight.dtype == torch.int8 for linear in found)
        if streamed:
            encoder.stream_from_host(torch.device("cpu"), asynchronous=False)
        return torch.cat(encoder(["a red circle moves", "blue"]))

    exact, near = encoded(None), encoded(kind)
    assert 0 < (near - exact).norm() / exact.norm() < 0.05
    assert torch.equal(near, encoded(kind, streamed=True))


@pytest.mark.parametrize("kind", KINDS)
def test_converted_weights_have_8_bits_and_give_the_same(
    kind: str, backbone: BackboneSettings, tmp_path: Path
) -> None:
    small = replace(backbone, quantize=kind)
    list(convert(small, tmp_path, "float32"))
    with safe_open(tmp_path / "diffusion_pytorch_model.safetensors", "pt") as file:
        stored = file.get_tensor("blocks.0.ffn.0.weight")
        assert stored.dtype == {"int8": torch.int8, "fp8": torch.float8_e4m3fn}[kind]
        assert file.get_tensor("blocks.0.ffn.0.weight_scale").shape == (len(stored), 1)
        assert file.get_tensor("head.head.weight").dtype == torch.float32
    with safe_open(tmp_path / NAMES["text_encoder"][0], "pt") as file:
        assert file.get_tensor("blocks.0.ffn.fc2.weight").dtype == torch.int8
        assert file.get_tensor("token_embedding.weight").dtype == torch.float32
    there = replace(small, folder=str(tmp_path))
    assert torch.allclose(velocity(there), velocity(small), atol=1e-6)
    texts = [load_text_encoder(settings)(["a red circle"])[0] for settings in (there, small)]
    assert torch.allclose(*texts, atol=1e-6)
    assert torch.allclose(velocity(replace(there, quantize=None)), velocity(small), atol=1e-5)


def test_blocks_in_8_bits_pass_from_host_memory(backbone: BackboneSettings) -> None:
    network = load_anchor(replace(backbone, quantize="int8"))
    blocks = list(network.blocks)
    for own, passed in zip(blocks, BlockStream(blocks, torch.device("cpu"), False), strict=True):
        pairs = zip(own.parameters(), passed.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_a_plan_counts_a_byte_a_weight() -> None:
    def weights(*words: str) -> float:
        given = ["backbone=wan2_2_ti2v_5b", "resolution=demo", "schedule=shortcut2", *words]
        config = compose("plan", given)[0].config
        return next(execution_modes("detail", config, Mesh(), float("inf"))).cost.weights

    whole, small = weights(), weights("backbone.quantize=fp8")
    assert 0.5 < small / whole < 0.55


def test_quantised_weights_are_part_of_the_keys(backbone: BackboneSettings, tmp_path: Path) -> None:
    config = small_config(backbone, tmp_path / "run")
    other = replace(config, backbone=replace(backbone, quantize="int8"))
    digests = dict.fromkeys(("text_encoder", "anchor", "detail", "vae"), "digest")
    exact, small = (make_jobs(c, prompts_of(c), digests)[0] for c in (config, other))
    assert exact.text_key != small.text_key
    assert exact.anchor_key != small.anchor_key and exact.detail_key != small.detail_key


@pytest.mark.parametrize(
    "words",
    [
        ["train", "experiments=train_tiny_anchor", "backbone.quantize=int8"],
        ["plan", "train=detail", "backbone.quantize=fp8"],
        ["bench", "backbone.quantize=fp8"],
        ["plan", "parallel=fsdp", "parallel.devices=2", "backbone.quantize=fp8"],
    ],
)
def test_what_needs_whole_weights_refuses_8_bits(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = [] if words[0] == "plan" else [f"run_dir={tmp_path / 'run'}"]
    assert main([*words, *run_dir]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "backbone.quantize=" in said


@torch.no_grad()
@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("attention", ["exact", "window"])
def test_8_bits_a_head_at_a_time_change_nothing(
    backbone: BackboneSettings, kind: str, attention: str
) -> None:
    network = load_anchor(replace(backbone, quantize=kind))
    torch.nn.init.normal_(network.head.head.weight, std=0.3)
    network.attention = ATTENTION.make(attention, "attention")
    dim = network.sizes.in_dim, network.sizes.text_dim
    latent, text = torch.randn(1, dim[0], 2, 8, 12), [torch.randn(3, dim[1])]
    found = []
    for lean in (False, True):
        network.chunk, network.lean, network.text_on_host = 17, lean, lean
        found.append(network(latent, torch.tensor([500.0]), network.encode_text(text)))
    assert found[0].any() and torch.allclose(*found, atol=1e-5)
