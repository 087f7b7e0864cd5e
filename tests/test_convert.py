"""Any layout becomes the official one, in bfloat16, a tensor at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small import write_backbone

from pixelwizard.cli.main import main
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.models.checkpoints import own_statistics
from pixelwizard.models.wan.files import save
from pixelwizard.models.weights import (
    check_weights,
    convert,
    load_anchor,
    load_detail,
    load_text_encoder,
    load_vae,
)


@pytest.fixture
def backbone(tmp_path: Path) -> BackboneSettings:
    return write_backbone(tmp_path / "from")


def test_the_converted_backbone_is_the_same_in_bfloat16(backbone, tmp_path):
    state = load_detail(backbone).state_dict()
    container = {"generator_ema": {f"model.{name}": tensor for name, tensor in state.items()}}
    torch.save(container, tmp_path / "model.pt")
    backbone = replace(backbone, detail=str(tmp_path / "model.pt"))
    paths = list(convert(backbone, tmp_path / "to"))
    assert len(paths) == 4
    assert own_statistics(tmp_path / "to") == {"latent_mean": [0.0] * 4, "latent_std": [1.0] * 4}
    assert not list((tmp_path / "to").rglob("*.part"))
    converted = replace(backbone, folder=str(tmp_path / "to"), detail=None)
    check_weights(converted, SamplerSettings())
    for load in (load_anchor, load_detail, load_vae, load_text_encoder):
        before, after = (load(b).state_dict() for b in (backbone, converted))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[n].bfloat16(), after[n].bfloat16()) for n in before)
    for path in paths:
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}


def test_what_is_not_there_is_left_out(backbone, tmp_path):
    (tmp_path / "from/detail/model.safetensors").unlink()
    names = {path.name for path in convert(backbone, tmp_path / "to", "float32")}
    assert names == {
        "diffusion_pytorch_model.safetensors",
        "Wan2.2_VAE.safetensors",
        "models_t5_umt5-enc.safetensors",
    }


def test_a_file_that_does_not_fit_leaves_nothing_behind(backbone, tmp_path):
    file = tmp_path / "from/Wan2.2_VAE.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="may be truncated"):
        list(convert(backbone, tmp_path / "to"))
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_written_files_are_those_of_safetensors(dtype, tmp_path):
    tensors = {
        "a.weight": torch.randn(3, 5),
        "empty": torch.zeros(0, 2),
        "scalar": torch.tensor(2.5),
        "turned": torch.randn(4, 6).t(),
    }
    save(tensors, tmp_path / "x.safetensors", dtype)
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor.to(dtype)) for name, tensor in tensors.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    head = int.from_bytes((tmp_path / "x.safetensors").read_bytes()[:8], "little")
    assert head % 8 == 0, "the data is aligned"


def test_the_command_writes_the_miniature_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "backbone=tiny", "out=out", "dtype=float32"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert json.loads((tmp_path / "out/config.json").read_text())["dim"] == 192


def test_a_run_folder_is_not_mixed_with_a_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("task: generate")
    assert main(["convert", "backbone=tiny", "out=."]) == 2
    assert "is a run folder; name a folder of its own" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["out=x", "backbone.folder=nowhere"], "needs files that are not in"),
        (["out=x", "backbone.folder=nowhere", "backbone.detail=no.pt"], "needs files"),
        (["out=x", "backbone=tiny", "backbone.detail=no.pt"], "no.pt does not exist"),
        (["out=x", "backbone.folder=x"], "is the folder that is read"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = words if "backbone=tiny" in words else ["backbone=wan2_2_ti2v_5b", *words]
    assert main(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and sentence in error
    assert not list(tmp_path.iterdir())
