"""Where a training starts, and what it refuses to go on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import small_training, write_backbone
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.tasks import from_plain
from pixelwizard.config.train import TrainConfig
from pixelwizard.models.checkpoints import find_weights
from pixelwizard.records.run_folder import WorkStopped
from pixelwizard.training.networks.base import TrainedNetwork
from pixelwizard.training.train import make_module, train


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the trainings of this file share."""
    return tmp_path_factory.mktemp("latents")


@pytest.mark.parametrize("part", ["vae", "anchor", "detail"])
def test_a_training_starts_from_the_backbones_network(
    backbone: BackboneSettings, tmp_path: Path, part: str
) -> None:
    module = make_module(small_training(backbone, tmp_path, tmp_path, part, init_from=None))
    path = find_weights(backbone, part)
    weights, own = load_file(path), module.network.state_dict()
    assert all(torch.equal(own[name].float(), value.float()) for name, value in weights.items())
    assert str(module.start) == f"from {path}: {len(own)} of {len(own)} tensors"


def test_the_detail_network_starts_from_an_anchor_without_step_embedding_and_adapter(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    path = find_weights(backbone, "anchor")
    config = small_training(backbone, tmp_path, tmp_path, "detail", init_from=str(path))
    start = make_module(config).start
    assert start.fitting + len(start.random) == start.of
    assert {name.split(".")[0] for name in start.random} == {"dt_embedding", "spatial_adapter"}
    assert "; newly initialised: dt_embedding" in str(start)


def test_what_a_training_starts_from_is_said_and_kept(
    backbone: BackboneSettings, tmp_path: Path, latents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_training(backbone, tmp_path, latents, "anchor", init_from=None)
    train(replace(config, trainer=replace(config.trainer, max_steps=1)))
    kept = json.loads((tmp_path / "start.json").read_text())
    assert kept["source"] == str(find_weights(backbone, "anchor"))
    assert kept["fitting"] == kept["of"] > 0 == len(kept["random"])
    assert f"training starts from {kept['source']}: " in capsys.readouterr().out


def test_weights_of_which_too_few_fit_are_refused(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    weights = load_file(find_weights(backbone, "anchor"))
    some = dict(list(weights.items())[: len(weights) // 2])
    save_file(some, tmp_path / "some.safetensors")
    config = small_training(
        *(backbone, tmp_path, tmp_path, "anchor"), init_from=str(tmp_path / "some.safetensors")
    )
    with pytest.raises(ValueError, match=f"{len(some)} of {len(weights)} tensors fit"):
        make_module(config)


def test_what_is_no_weights_is_refused_with_its_key(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    (tmp_path / "start.pt").write_text("a note")
    config = small_training(
        *(backbone, tmp_path, tmp_path, "anchor"), init_from=str(tmp_path / "start.pt")
    )
    said = r"objective.init_from=\S+start.pt is a text file, not weights; name a"
    with pytest.raises(ValueError, match=said):
        make_module(config)


@pytest.mark.parametrize(
    "name, values, sentence",
    [
        ("latent_std", [1.0] * 3, "latent_std has 3 numbers, and the latent 4 channels; give one"),
        ("latent_mean", [], "backbone.vae.latent_mean has 0 numbers, and the latent 4 channels"),
        ("latent_std", [1.0, 0.0, 1.0, 1.0], "backbone.vae.latent_std=0.0 must be above 0"),
        ("latent_mean", [float("nan")] * 4, "backbone.vae.latent_mean[0]=nan must be a number"),
    ],
)
def test_statistics_that_no_latent_has_are_refused(
    backbone: BackboneSettings, tmp_path: Path, name: str, values: list[float], sentence: str
) -> None:
    plain = to_plain(small_training(backbone, tmp_path, tmp_path, "anchor"))
    plain["backbone"]["vae"][name] = values
    with pytest.raises(ConfigError) as refused:
        from_plain(plain)
    assert sentence in str(refused.value)


def test_an_autoencoder_whose_latents_do_not_vary_is_not_exported(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    module = make_module(small_training(backbone, tmp_path, tmp_path, "vae"))
    torch.nn.init.zeros_(module.network.conv1.weight)
    with pytest.raises(WorkStopped, match="a channel of its latents is constant"):
        module.export(tmp_path / "export", module.network, module.network)
    assert not (tmp_path / "export").exists()


def stopping(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, spoil: Any) -> str:
    """The sentence of a training whose losses are spoilt from the fifth step on."""
    step = TrainedNetwork.training_step

    def spoilt(module: TrainedNetwork, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = step(module, batch, batch_idx)
        return spoil(module, loss) if batch["step"] == 4 else loss  # type: ignore[no-any-return]

    monkeypatch.setattr(TrainedNetwork, "training_step", spoilt)
    with pytest.raises(WorkStopped) as stopped:
        train(config)
    return str(stopped.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_before_its_step(
    backbone: BackboneSettings,
    tmp_path: Path,
    latents: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    config = small_training(backbone, tmp_path, latents, "anchor")
    sentence = stopping(config, monkeypatch, lambda module, loss: loss * value)
    assert sentence.startswith("training stopped at step 5: ")
    assert_finite(tmp_path)


def test_weights_that_are_not_finite_are_neither_written_nor_exported(
    backbone: BackboneSettings, tmp_path: Path, latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(module: TrainedNetwork, loss: Tensor) -> Tensor:
        torch.nn.init.constant_(module.average.head.head.bias, float("nan"))
        return loss

    config = small_training(backbone, tmp_path, latents, "anchor")
    sentence = stopping(config, monkeypatch, spoil)
    assert sentence.startswith("training stopped at step 6: held_out is nan")
    assert_finite(tmp_path)


def assert_finite(folder: Path) -> None:
    """The state of step 3 is the newest, and what is exported is finite."""
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000003.ckpt"]
    exported = load_file(folder / "export" / "diffusion_pytorch_model.safetensors")
    assert all(torch.isfinite(value).all() for value in exported.values())
