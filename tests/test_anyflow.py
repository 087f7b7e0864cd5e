"""AnyFlow's step-size conditioning: diffusers' network, its names, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small import BACKBONE, few_step, small_training, write_backbone
from torch import nn

from pixelwizard.bench.peers import named
from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.models.shortcut.network import AnyFlowDiT
from pixelwizard.models.wan.layouts import diffusers_module, official_dit
from pixelwizard.models.weights import check_weights, load_anchor, shapes_of
from pixelwizard.training.train import make_module

anyflow = pytest.importorskip("diffusers.models.transformers.transformer_anyflow")


def theirs(sizes: DiTSizes) -> nn.Module:
    """diffusers' network of these sizes."""
    return anyflow.AnyFlowTransformer3DModel(**named(sizes))


@pytest.fixture
def published(tmp_path: Path) -> tuple[nn.Module, Path]:
    """A small network as AnyFlow's are published: names of diffusers, a configuration beside it."""
    torch.manual_seed(0)
    network = theirs(BACKBONE.dit).eval()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    path.parent.mkdir()
    save_file(network.state_dict(), path)
    write_config(path, gate_value=0.25, deltatime_type="r")
    return network, path


def write_config(path: Path, **settings: object) -> None:
    (path.parent / "config.json").write_text(json.dumps(settings))


@torch.no_grad()
def test_published_weights_give_the_velocity_of_diffusers(published) -> None:
    network, path = published
    ours, sizes = load_anchor(replace(BACKBONE, anchor=str(path))), BACKBONE.dit
    assert isinstance(ours, AnyFlowDiT)
    x, text = torch.randn(2, sizes.in_dim, 3, 4, 6), torch.randn(2, sizes.text_len, sizes.text_dim)
    start, end = torch.tensor([937.0, 250.0]), torch.tensor([624.0, 0.0])
    found = ours(x, start, ours.encode_text(list(text)), start - end)
    frames = [time[:, None].expand(2, 3) for time in (start, end)]
    expected = network(x.transpose(1, 2), *frames, text, return_dict=False)[0].transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    velocity = ours(x, start, ours.encode_text(list(text)))
    assert not torch.allclose(velocity, found), "the end of a step counts"


def test_its_names_at_the_size_of_the_5b_are_all_known_and_lead_back() -> None:
    with torch.device("meta"):
        ours, other = AnyFlowDiT(DiTSizes()), theirs(DiTSizes())
    expected = shapes_of(other)
    assert official_dit(expected) == shapes_of(ours)
    names = {name.rpartition(".")[0] for name in expected if "embedder" in name}
    assert names == {diffusers_module(n) for n in map(official_name, names)}


def official_name(module: str) -> str:
    (name,) = official_dit({f"{module}.weight": None})
    return name.removesuffix(".weight")


@pytest.mark.parametrize(("key", "value"), [("gate_value", 0.5), ("deltatime_type", "t-r")])
def test_another_conditioning_of_its_configuration_is_refused(published, key, value) -> None:
    write_config(published[1], **{key: value})
    with pytest.raises(ValueError, match=f"has {key}={value}; AnyFlow's weights are read with"):
        load_anchor(replace(BACKBONE, anchor=str(published[1])))


def test_the_published_networks_of_wan2_1_are_refused_for_their_latents(tmp_path) -> None:
    sizes = {"in_channels": 16, "num_attention_heads": 12, "num_layers": 30}
    with torch.device("meta"):
        shapes = shapes_of(anyflow.AnyFlowTransformer3DModel(ffn_dim=8960, text_dim=4096, **sizes))
    path = tmp_path / "anyflow.safetensors"
    few = {n: torch.zeros(s) for n, s in shapes.items() if not n.startswith("blocks.")}
    few["condition_embedder.time_proj.weight"] = torch.zeros(1)
    save_file(few, path)
    backbone = BackboneSettings(name="5b", anchor=str(path), dit=DiTSizes())
    with pytest.raises(ValueError, match="Wan2.1-1.3B, for Wan's text to video with the VAE of"):
        load_anchor(backbone)


def test_it_is_sampled_with_step_sizes_and_not_trained(published, tmp_path) -> None:
    backbone = replace(write_backbone(tmp_path / "backbone"), anchor=str(published[1]))
    check_weights(backbone, SamplerSettings(solver="euler", steps=4, step_sizes="raw"))
    given = few_step("flow_map")
    config = small_training(backbone, tmp_path / "run", tmp_path / "latents", "anchor", **given)
    with pytest.raises(ValueError, match="which can be sampled but not trained; start from Wan's"):
        make_module(replace(config, stage="anchor"))
