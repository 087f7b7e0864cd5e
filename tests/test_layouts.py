"""A folder in the layout of Diffusers loads to the same networks as the official one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import BACKBONE, write_backbone
from torch import Tensor, nn

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.models.checkpoints import INDEX, MissingWeights, require_weights, weights_digest
from pixelwizard.models.wan.layouts import official_dit, official_text, official_vae
from pixelwizard.models.wan.umt5 import official_names
from pixelwizard.models.weights import (
    check_weights,
    load_anchor,
    load_detail,
    load_text_encoder,
    load_vae,
)

DIT = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "blocks.1.modulation": "blocks.1.scale_shift_table",
    "blocks.1.norm3": "blocks.1.norm2",
    "blocks.1.self_attn.q": "blocks.1.attn1.to_q",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.1.self_attn.norm_k": "blocks.1.attn1.norm_k",
    "blocks.1.cross_attn.v": "blocks.1.attn2.to_v",
    "blocks.1.ffn.0": "blocks.1.ffn.net.0.proj",
    "blocks.1.ffn.2": "blocks.1.ffn.net.2",
}
VAE = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "encoder.head.0": "encoder.norm_out",
    "decoder.head.2": "decoder.conv_out",
    "decoder.middle.0.residual.2": "decoder.mid_block.resnets.0.conv1",
    "encoder.middle.1.to_qkv": "encoder.mid_block.attentions.0.to_qkv",
    "encoder.middle.2.residual.6": "encoder.mid_block.resnets.1.conv2",
    "encoder.downsamples.1.downsamples.0.shortcut": "encoder.down_blocks.1.resnets.0.conv_shortcut",
    "encoder.downsamples.0.downsamples.1.residual.0": "encoder.down_blocks.0.resnets.1.norm1",
    "encoder.downsamples.1.downsamples.2.time_conv": "encoder.down_blocks.1.downsampler.time_conv",
    "decoder.upsamples.0.upsamples.2.residual.3": "decoder.up_blocks.0.resnets.2.norm2",
    "decoder.upsamples.0.upsamples.3.resample.1": "decoder.up_blocks.0.upsampler.resample.1",
}


@pytest.mark.parametrize("end", ["weight", "bias"])
def test_names_of_diffusers_become_the_official_ones(end: str) -> None:
    """``tests/test_diffusers.py`` shows it for every name of the real modules."""
    kept = ("modulation",)
    for pairs, official in ((DIT, official_dit), (VAE, lambda names: official_vae(names, 2))):
        names = {f"{o}.{end}": f"{t}.{end}" for o, t in pairs.items() if not o.endswith(kept)}
        names |= {o: t for o, t in pairs.items() if o.endswith(kept)}
        assert official({theirs: ours for ours, theirs in names.items()}) == {
            name: name for name in names
        }
        assert official(names) == names, "official names stay as they are"


def test_an_embedding_stored_twice_is_one_weight() -> None:
    names = {other: other for other in official_names(1).values()}
    expected = {official: other for official, other in official_names(1).items()}
    assert official_text(names, 1) == expected
    assert official_text({**names, "encoder.embed_tokens.weight": "again"}, 1) == expected


def their_names(tensors: dict[str, Tensor], pairs: dict[str, str]) -> dict[str, Tensor]:
    return {pairs[name]: tensor for name, tensor in tensors.items()}


def pairs_of(network: nn.Module, official: Callable[..., dict[str, str]]) -> dict[str, str]:
    """Official name -> name in the network of diffusers."""
    return official({name: name for name in network.state_dict()})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[BackboneSettings, BackboneSettings]:
    """The same weights as an official folder and as one of Diffusers, its transformer in shards."""
    pytest.importorskip("diffusers")
    from pixelwizard.bench.peers import their_dit, their_vae

    ours, theirs = tmp_path / "official", tmp_path / "diffusers"
    backbone = write_backbone(ours)
    pairs = pairs_of(their_dit(BACKBONE.dit), official_dit)
    anchor = their_names(load_file(ours / "diffusion_pytorch_model.safetensors"), pairs)
    shards = {"a.safetensors": list(anchor)[::2], "b.safetensors": list(anchor)[1::2]}
    (theirs / "transformer").mkdir(parents=True)
    for file, names in shards.items():
        save_file({name: anchor[name] for name in names}, theirs / "transformer" / file)
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (theirs / "transformer" / INDEX).write_text(json.dumps(index))
    config = {"num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "num_layers": 2}
    (theirs / "transformer" / "config.json").write_text(json.dumps(config))

    blocks = BACKBONE.vae.num_res_blocks
    pairs = pairs_of(their_vae(BACKBONE.vae), lambda names: official_vae(names, blocks))
    (theirs / "vae").mkdir()
    tensors = their_names(load_file(ours / "Wan2.2_VAE.safetensors"), pairs)
    save_file(tensors, theirs / "vae" / "diffusion_pytorch_model.safetensors")

    (theirs / "text_encoder").mkdir()
    tensors = load_file(ours / "models_t5_umt5-enc.safetensors")
    tensors = their_names(tensors, official_names(BACKBONE.text.num_layers))
    save_file(tensors, theirs / "text_encoder" / "model.safetensors")
    shutil.copytree(ours / "google" / "umt5-xxl", theirs / "tokenizer")
    shutil.copytree(ours / "detail", theirs / "detail")
    return backbone, replace(backbone, folder=str(theirs))


def test_both_layouts_load_to_the_same_networks(folders) -> None:
    for load in (load_anchor, load_detail, load_vae, load_text_encoder):
        first, second = (load(backbone).state_dict() for backbone in folders)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    check_weights(folders[1], SamplerSettings())
    assert weights_digest(folders[0], "detail") == weights_digest(folders[1], "detail")


def test_a_diffusers_folder_is_judged_by_its_own_names(folders) -> None:
    backbone = folders[1]
    folder = Path(backbone.folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(MissingWeights) as error:
        require_weights(backbone)
    assert "vae/diffusion_pytorch_model.safetensors" in str(error.value)
    assert "tokenizer/tokenizer_config.json" in str(error.value)
    assert "Wan2.2_VAE" not in str(error.value)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({"num_attention_heads": 40, "attention_head_dim": 128}))
    with pytest.raises(ValueError, match="dim is 5120, not 64, num_heads is 40, not 2"):
        require_weights(backbone)
