"""Linears whose weights are in oneDNN's order: which networks have them, and what they compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import small_config, write_backbone
from torch import nn

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.generation import placement
from pixelwizard.generation.placement import ModelLoader
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.kernels import ReorderedLinear, has_onednn, linear
from pixelwizard.models.weights import load_anchor, load_detail
from pixelwizard.planning.device import Trace

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not has_onednn(torch.float32), reason="torch without oneDNN")


@pytest.fixture
def config(tmp_path: Path) -> GenerateConfig:
    return small_config(write_backbone(tmp_path / "weights"), tmp_path / "run")


def anchor(config: GenerateConfig) -> WanDiT:
    return ModelLoader(config, None).load("anchor", load_anchor, CPU, torch.float32)


def reordered(network: nn.Module) -> int:
    return sum(isinstance(module, ReorderedLinear) for module in network.modules())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
def test_it_computes_what_the_plain_linear_does(dtype: torch.dtype, gelu: bool) -> None:
    if not has_onednn(dtype):
        pytest.skip("this processor has no bfloat16 in oneDNN")
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 48).to(dtype), torch.randn(2, 33, 64, dtype=dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    found, expected = linear(ReorderedLinear(layer), x, gelu), linear(layer, x, gelu)
    assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize(("stage", "load"), [("anchor", load_anchor), ("detail", load_detail)])
def test_a_resident_network_on_a_processor_has_no_plain_linear_in_its_blocks(
    config: GenerateConfig, stage: str, load: object
) -> None:
    network = ModelLoader(config, None).load(stage, load, CPU, torch.float32)
    plain = {name for name, module in network.named_modules() if type(module) is nn.Linear}
    assert reordered(network) and not any(name.startswith("blocks.") for name in plain)


@torch.no_grad()
def test_the_velocity_is_that_of_plain_linears(config: GenerateConfig) -> None:
    torch.manual_seed(0)
    latent, when, text = torch.randn(1, 4, 2, 4, 8), torch.tensor([500.0]), torch.randn(3, 16)
    plain = load_anchor(config.backbone, CPU, torch.float32)
    velocities = [
        network(latent, when, network.encode_text([text])) for network in (plain, anchor(config))
    ]
    assert torch.allclose(*velocities, atol=1e-6)


@pytest.mark.parametrize("mode", ["stream", "offload"])
def test_weights_that_move_stay_plain(config: GenerateConfig, mode: str) -> None:
    moving = replace(config, memory=replace(config.memory, mode=mode))
    assert reordered(anchor(moving)) == 0


def test_weights_in_8_bits_stay_as_they_are(config: GenerateConfig) -> None:
    smaller = replace(config, backbone=replace(config.backbone, quantize="int8"))
    assert reordered(anchor(smaller)) == 0


def test_weights_stay_plain_where_a_second_copy_would_not_fit(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "available", lambda: 1000)
    assert reordered(anchor(config)) == 0


def test_the_weights_are_in_memory_once() -> None:
    with Trace(computing=True) as trace:
        layer = nn.Linear(512, 512)
        before = trace.live
        layer = ReorderedLinear(layer)
    assert layer.weight.nbytes == 512 * 512 * 4 and trace.live == before
