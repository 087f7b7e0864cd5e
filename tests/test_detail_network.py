"""The detail network may be a class of the user's: its weights, its key, its plan are its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import BACKBONE, randomise, small_config, write_backbone
from torch import Tensor, nn

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target, check_doors
from pixelwizard.data.prompts import Prompt
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.shortcut.network import ShortcutDiT, make_detail
from pixelwizard.models.weights import load_detail, save_network
from pixelwizard.records.provenance import make_jobs

DIGESTS = dict.fromkeys(("text_encoder", "anchor", "detail", "vae"), "0")


class Ratio(nn.Module):
    """Step sizes by one number per channel."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.zeros(dim)), scale

    def forward(self, step_size_B: Tensor) -> Tensor:
        return self.scale * step_size_B[:, None] / 1000 * self.weight


class RatioDiT(ShortcutDiT):
    def __init__(self, sizes, control_blocks, scale=1.0):  # type: ignore[no-untyped-def]
        super().__init__(sizes, control_blocks)
        self.dt_embedding = Ratio(sizes.dim, scale)  # type: ignore[assignment]


OWN = Target("test_detail_network.RatioDiT", {"scale": 2.0})


def write_own_detail(folder: Path) -> Path:
    """A file of random weights for the class above."""
    own = RatioDiT(BACKBONE.detail_dit, BACKBONE.control_blocks, 2.0)
    save_network(randomise(own), "detail", folder)  # type: ignore[arg-type]
    return folder / NAMES["detail"][0]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    """A backbone whose detail network is the class above."""
    folder = tmp_path_factory.mktemp("weights")
    found = write_backbone(folder)
    write_own_detail(folder)
    return replace(found, detail_network=OWN)


def test_it_loads_the_weights_of_its_own_names(backbone: BackboneSettings) -> None:
    network = load_detail(backbone)
    assert isinstance(network, RatioDiT) and network.dt_embedding.scale == 2.0
    assert network.dt_embedding.weight.abs().min() > 0


def test_weights_of_the_shipped_network_are_refused_by_name(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    save_network(ShortcutDiT(BACKBONE.detail_dit, BACKBONE.control_blocks), "detail", tmp_path)
    other = replace(backbone, detail=str(tmp_path / "detail" / "model.safetensors"))
    with pytest.raises(ValueError, match="dt_embedding.weight"):
        load_detail(other)
    with pytest.raises(ValueError, match="dt_embedding"):
        load_detail(replace(backbone, detail_network=None))


def test_a_shape_that_is_not_the_classes_is_refused(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    tensors = load_file(Path(str(backbone.folder)) / "detail" / "model.safetensors")
    tensors["dt_embedding.weight"] = tensors["dt_embedding.weight"][:-1].clone()
    save_file(tensors, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match="dt_embedding.weight"):
        load_detail(replace(backbone, detail=str(tmp_path / "short.safetensors")))


def test_only_the_details_key_depends_on_it(backbone: BackboneSettings, tmp_path: Path) -> None:
    prompt = Prompt("a", "a red circle", "", 100, 10000)
    plain = small_config(replace(backbone, detail_network=None), tmp_path)
    own = small_config(backbone, tmp_path)
    (before,), (after,) = (make_jobs(c, [prompt], DIGESTS) for c in (plain, own))
    assert (before.text_key, before.anchor_key) == (after.text_key, after.anchor_key)
    assert before.detail_key != after.detail_key


def test_a_class_that_is_no_detail_network_is_refused(backbone: BackboneSettings) -> None:
    for path, sentence in (
        ("torch.nn.Linear", "must be a subclass of pixelwizard.models.shortcut.network"),
        ("test_detail_network.RatioDit", "did you mean"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check_doors(replace(backbone, detail_network=Target(path)))
    with pytest.raises(ConfigError, match="scales"):
        check_doors(replace(backbone, detail_network=Target(OWN.path, {"scales": 1})))


def test_at_initialisation_it_is_made_with_its_arguments() -> None:
    made = make_detail(OWN, BACKBONE.detail_dit, BACKBONE.control_blocks)
    assert isinstance(made, RatioDiT) and made.dt_embedding.scale == 2.0
    assert type(make_detail(None, BACKBONE.detail_dit, [0])) is ShortcutDiT
