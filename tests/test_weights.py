"""Weight files load whole and only into the network they belong to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from small import save_text_encoder
from torch import Tensor, nn

from pixelwizard.config.backbone import BackboneSettings, DiTSizes, TextSizes, VAESizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.models.checkpoints import INDEX, MissingWeights, require_weights, weights_digest
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.umt5 import TextEncoder, load_tokenizer, write_word_tokenizer
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.models.weights import (
    check_weights,
    load_anchor,
    load_detail,
    load_text_encoder,
    load_vae,
    save_network,
)

ANCHOR = "diffusion_pytorch_model.safetensors"
DETAIL = "detail/model.safetensors"
SETTINGS = BackboneSettings(
    name="small",
    dit=DiTSizes(
        in_dim=4, out_dim=4, dim=64, ffn_dim=32, freq_dim=16, text_dim=16, text_len=6,
        num_heads=2, num_layers=3,
    ),
    detail_layers=2,
    vae=VAESizes(
        z_dim=4, dim=4, dec_dim=4, num_res_blocks=1, latent_mean=[0.0] * 4, latent_std=[1.0] * 4
    ),
    text=TextSizes(vocab_size=8, dim=16, dim_attn=16, dim_ffn=24, num_heads=2, num_layers=1),
)  # fmt: skip
FILES = {
    "anchor": ANCHOR,
    "detail": DETAIL,
    "vae": "Wan2.2_VAE.safetensors",
    "text_encoder": "models_t5_umt5-enc.safetensors",
}
EMA = ("auto", "true", "false")
LOADERS = {
    "anchor": load_anchor,
    "detail": load_detail,
    "vae": load_vae,
    "text_encoder": load_text_encoder,
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    write_word_tokenizer(tokenizer, ["a", "red", "circle"])
    return {
        "anchor": WanDiT(SETTINGS.dit),
        "detail": ShortcutDiT(SETTINGS.detail_dit, [0, 1]),
        "vae": WanVAE(SETTINGS.vae),
        "text_encoder": TextEncoder(SETTINGS.text, load_tokenizer(tokenizer), 6),
    }


@pytest.fixture
def backbone(tmp_path: Path, networks: dict[str, nn.Module]) -> BackboneSettings:
    """A folder with all four networks in float32, and the settings that point to it."""
    save_network(networks["anchor"], "anchor", tmp_path, torch.float32)
    save_network(networks["detail"], "detail", tmp_path, torch.float32)
    save_network(networks["vae"], "vae", tmp_path, torch.float32)
    save_text_encoder(networks["text_encoder"], tmp_path, torch.float32)
    return replace(SETTINGS, folder=str(tmp_path))


def edit(path: Path, **changes: Tensor | None) -> None:
    """Rewrite a safetensors file with tensors replaced, added or (``None``) left out."""
    tensors = {**load(path.read_bytes()), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


@pytest.mark.parametrize("part", LOADERS)
def test_every_network_loads_as_it_was_saved(part, backbone, networks):
    loaded = LOADERS[part](backbone)
    expected = networks[part].state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("part", LOADERS)
def test_loading_casts_every_tensor(part, backbone):
    loaded = LOADERS[part](backbone, "cpu", torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_saving_leaves_nothing_but_the_files_of_the_layout(backbone):
    folder = Path(backbone.folder)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {path for path in found if "umt5-xxl/" not in path} == {
        "config.json", ANCHOR, DETAIL, "Wan2.2_VAE.safetensors", "models_t5_umt5-enc.safetensors",
    }  # fmt: skip
    assert {"google/umt5-xxl/tokenizer.json", "google/umt5-xxl/tokenizer_config.json"} < found
    require_weights(backbone)


def test_shards_with_an_index_load_like_one_file(backbone, networks):
    folder = Path(backbone.folder)
    tensors = load_file(folder / ANCHOR)
    (folder / ANCHOR).unlink()
    halves = {"a.safetensors": list(tensors)[::2], "b.safetensors": list(tensors)[1::2]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    weight_map = {name: file for file, names in halves.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    loaded = load_anchor(backbone)
    assert torch.equal(loaded.head.modulation, networks["anchor"].head.modulation)
    (folder / "b.safetensors").unlink()
    with pytest.raises(MissingWeights, match="b.safetensors"):
        load_anchor(backbone)


def container(file: Path, **parts: dict[str, Tensor]) -> str:
    """Write a trainer's container, the names under its prefixes."""
    prefixed = {
        part: {f"model._fsdp_wrapped_module.{name}": tensor for name, tensor in state.items()}
        for part, state in parts.items()
    }
    torch.save(prefixed, file)
    return str(file)


def test_a_trainers_container_gives_the_weights_that_ema_asks_for(backbone, networks, tmp_path):
    averaged = networks["detail"].state_dict()
    last = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    both = container(tmp_path / "both.pt", generator=last, generator_ema=averaged)
    young = container(tmp_path / "young.pt", generator=last)

    def size(file: str, ema: str) -> float:
        chosen = replace(backbone, detail=file, control_blocks=[1], ema=ema)
        loaded = load_detail(chosen)
        assert list(loaded.spatial_adapter.zero_layers) == ["0", "1"], "as the names say"
        return loaded.head.modulation.abs().sum().item()

    assert size(both, "auto") == size(both, "true") > 0
    assert size(both, "false") == size(young, "auto") == size(young, "false") == 0
    with pytest.raises(ValueError, match="has no generator_ema, but generator; backbone.ema=true"):
        size(young, "true")
    digests = {weights_digest(replace(backbone, detail=both, ema=e), "detail") for e in EMA}
    assert len(digests) == 2, "the last weights are not the averaged ones"


def test_a_bare_checkpoint_has_no_averaged_weights(backbone, networks, tmp_path):
    torch.save(networks["detail"].state_dict(), tmp_path / "bare.pt")
    chosen = replace(backbone, detail=str(tmp_path / "bare.pt"))
    assert load_detail(chosen).head.modulation.abs().sum() > 0
    with pytest.raises(ValueError, match="holds no averaged weights, but backbone.ema=true"):
        load_detail(replace(chosen, ema="true"))
    load_anchor(replace(backbone, ema="true"))


def test_a_checkpoint_of_the_other_stage_is_refused(backbone):
    folder = Path(backbone.folder)
    anchor, detail = str(folder / ANCHOR), str(folder / DETAIL)
    with pytest.raises(ValueError, match="is an anchor, not a detail network"):
        load_detail(replace(backbone, detail=anchor))
    with pytest.raises(ValueError, match="is a detail network .* not an anchor"):
        load_anchor(replace(backbone, anchor=detail))


def test_differing_names_and_shapes_are_named(backbone):
    file = Path(backbone.folder) / DETAIL
    edit(
        file,
        **{
            "head.head.bias": None,
            "dt_embedding.0.bias": torch.zeros(3),
            "extra.weight": torch.zeros(1),
        },
    )
    with pytest.raises(ValueError) as error:
        load_detail(backbone)
    text = str(error.value)
    assert "missing head.head.bias" in text
    assert "unexpected extra.weight" in text
    assert "dt_embedding.0.bias of shape [3] instead of [64]" in text
    assert "\n" not in text


@pytest.mark.parametrize("part", LOADERS)
def test_the_gate_refuses_any_part_that_does_not_fit(part, backbone):
    check_weights(backbone, SamplerSettings())
    edit(Path(backbone.folder) / FILES[part], **{"extra.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="unexpected extra.weight"):
        check_weights(backbone, SamplerSettings())


def test_quantised_weights_are_refused(backbone):
    eighth = torch.zeros(16, dtype=torch.int8)
    edit(Path(backbone.folder) / ANCHOR, **{"head.head.bias": eighth})
    with pytest.raises(ValueError, match="head.head.bias of type int8, which is quantised"):
        load_anchor(backbone)


def test_a_detail_network_with_more_blocks_is_another_one(backbone, networks, tmp_path):
    state = dict(networks["detail"].state_dict())
    state["spatial_adapter.zero_layers.7.weight"] = torch.zeros(64, 64)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="steers block 7, but .* has 2 blocks"):
        load_detail(replace(backbone, detail=str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize("name", [ANCHOR, "Wan2.2_VAE.safetensors"])
def test_a_truncated_safetensors_file_is_refused(name, backbone):
    file = Path(backbone.folder) / name
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read, it may be truncated"):
        load_anchor(backbone) if name == ANCHOR else load_vae(backbone)


@pytest.mark.parametrize("keep", [0, 40, 5000])
def test_a_truncated_or_foreign_pickle_is_refused(keep, backbone, networks, tmp_path):
    file = tmp_path / "model.pt"
    torch.save({"generator": networks["detail"].state_dict()}, file)
    file.write_bytes(file.read_bytes()[:keep])
    said = "cannot be read, it may be truncated" if keep else "backbone.detail: .* is an empty file"
    with pytest.raises(ValueError, match=said):
        load_detail(replace(backbone, detail=str(file)))


@pytest.mark.parametrize("content", [{"generator": {"step": 3}}, {"step": 3}, [torch.zeros(1)]])
def test_a_pickle_of_something_else_is_refused(content, backbone, tmp_path):
    file = tmp_path / "model.pt"
    torch.save(content, file)
    with pytest.raises(ValueError, match="is not a checkpoint of weights"):
        load_detail(replace(backbone, detail=str(file)))


def test_a_folder_of_another_model_is_refused_by_its_config(backbone):
    with pytest.raises(ValueError, match="dim is 64, not 128"):
        require_weights(replace(backbone, dit=replace(backbone.dit, dim=128)))
    (Path(backbone.folder) / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        load_anchor(backbone)


def test_missing_files_are_named_in_one_sentence_with_the_folder(backbone, tmp_path):
    nowhere = replace(backbone, folder=str(tmp_path / "nowhere"))
    with pytest.raises(MissingWeights) as error:
        require_weights(nowhere)
    text = str(error.value)
    assert "nowhere, which is not a folder" in text and "\n" not in text
    for name in ("config.json", "Wan2.2_VAE.pth", "detail/model.pt", "google/umt5-xxl"):
        assert name in text
    (Path(backbone.folder) / DETAIL).unlink()
    require_weights(backbone, ["anchor", "vae"])
    with pytest.raises(MissingWeights, match="detail/model.pt"):
        load_detail(backbone)


def test_what_is_there_and_what_it_looks_like_is_said(backbone, tmp_path):
    other = tmp_path / "other"
    (other / "high_noise_model").mkdir(parents=True)
    (other / "Wan2.1_VAE.pth").touch()
    with pytest.raises(MissingWeights) as error:
        require_weights(replace(backbone, folder=str(other)))
    assert "it has Wan2.1_VAE.pth, high_noise_model; it looks like Wan2.2-A14B" in str(error.value)


def test_missing_weights_say_how_to_fetch_them(tmp_path):
    full = BackboneSettings(name="wan2_2_ti2v_5b", folder=str(tmp_path / "nowhere"))
    with pytest.raises(MissingWeights) as error:
        require_weights(full)
    text = str(error.value)
    assert "pixelwizard fetch wan2_2_ti2v_5b;" in text
    assert "pixelwizard fetch pixelwizard-4k, and name it with backbone.detail=FILE" in text
    with pytest.raises(MissingWeights) as error:
        require_weights(full, ["vae"])
    assert "pixelwizard-4k" not in str(error.value)


def test_the_digest_follows_the_content(backbone):
    before = {part: weights_digest(backbone, part) for part in LOADERS}
    assert len(set(before.values())) == len(LOADERS)
    edit(Path(backbone.folder) / DETAIL, **{"head.head.bias": torch.ones(16)})
    write_word_tokenizer(Path(backbone.folder) / "google/umt5-xxl", ["a", "red", "square"])
    changed = [part for part in LOADERS if weights_digest(backbone, part) != before[part]]
    assert changed == ["detail", "text_encoder"]
