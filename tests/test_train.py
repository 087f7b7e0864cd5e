"""Training: every objective learns, a stopped training continues exactly, exports can be loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small import EVEN, SIZE, randomise, small_training, write_backbone
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.objective import ConditionSettings, ReconstructionSettings, ShortcutSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.train import OptimizerSettings
from pixelwizard.config.trainer import TrainerSettings
from pixelwizard.data.crops import latent_statistics
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.weights import load_anchor, load_detail, load_vae
from pixelwizard.training import optimizers
from pixelwizard.training.networks.detail import pass_through
from pixelwizard.training.optimizers import MuonAdamW, newton_schulz
from pixelwizard.training.train import make_module, train

LOADERS = {"anchor": load_anchor, "detail": load_detail, "vae": load_vae}
DECODER = dict(reconstruction=ReconstructionSettings(decoder_only=True), init_from=None)
SHORTCUTS = ShortcutSettings(probability=1.0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the trainings of this file share."""
    return tmp_path_factory.mktemp("latents")


def fixed_batch() -> dict[str, Any]:
    """What every objective can train on."""
    draw = torch.Generator().manual_seed(3)
    return {
        "latent": torch.randn(2, 4, 2, 4, 8, generator=draw),
        "condition": torch.randn(2, 4, 2, 2, 4, generator=draw),
        "video": torch.randint(0, 256, (2, 3, 5, 32, 32), generator=draw, dtype=torch.uint8),
        "text": [torch.randn(3, 16, generator=draw)] * 2,
        "empty": [torch.zeros(1, 16)] * 2,
        "step": 5,
    }


@pytest.mark.parametrize(
    "kind, objective",
    [
        ("vae", {}),
        ("vae", DECODER),
        ("anchor", {}),
        ("detail", {"shortcut": ShortcutSettings(probability=0.0)}),
        ("detail", {"shortcut": SHORTCUTS, "condition": ConditionSettings(pass_through=True)}),
    ],
    ids=["vae", "vae decoder", "anchor", "detail", "detail shortcuts"],
)
def test_the_loss_of_a_fixed_batch_falls(
    backbone: BackboneSettings, tmp_path: Path, kind: str, objective: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    module = make_module(small_training(backbone, tmp_path, tmp_path, kind, **objective))
    optimizer, batch, losses = module.configure_optimizers(), fixed_batch(), []
    for _ in range(12):
        loss = module.loss(module.network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(torch.isfinite(torch.tensor(losses)))
    assert losses[-1] < 0.95 * losses[0]


def test_flow_alone_leaves_the_step_embedding_without_effect(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    flow = dict(kind="flow", condition=ConditionSettings(pass_through=True))
    config = replace(small_training(backbone, tmp_path, tmp_path, "detail", **flow), stage="detail")
    module, batch = make_module(config), fixed_batch()
    optimizer = module.configure_optimizers()
    before = module.network.blocks[0].ffn[0].weight.clone()
    for _ in range(3):
        optimizer.zero_grad()
        module.loss(module.network, batch).backward()
        optimizer.step()
    assert not torch.equal(module.network.blocks[0].ffn[0].weight, before)
    assert not module.network.dt_embedding(torch.tensor([2.0, 56.0, 646.0])).any()


def test_a_latent_channel_counts_as_much_as_its_weight(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    def loss(*weights: float) -> float:
        flow = replace(EVEN, channels=list(weights))
        module = make_module(small_training(backbone, tmp_path, tmp_path, "anchor", flow=flow))
        torch.manual_seed(0)
        return float(module.loss(randomise(module.network), fixed_batch()).detach())

    alone = [loss(4, 0, 0, 0), loss(0, 4, 0, 0), loss(0, 0, 4, 0), loss(0, 0, 0, 4)]
    assert len(set(alone)) == 4
    assert sum(alone) / 4 == pytest.approx(loss())
    assert loss(2, 2, 0, 0) == pytest.approx((alone[0] + alone[1]) / 2)


@pytest.mark.parametrize(
    "weights, sentence",
    [
        ([1.0, 1.0], "has 2 weights, and the backbone's latent 4 channels; give one each"),
        ([2.0] * 4, "has the mean 2, it must be 1; divide all by it"),
        ([3.0, 1.0, 1.0, -1.0], "objective.flow.channels=-1.0 must be at least 0.0"),
    ],
)
def test_weights_that_no_latent_has_are_refused_in_a_sentence(
    backbone: BackboneSettings, tmp_path: Path, weights: list[float], sentence: str
) -> None:
    flow = replace(EVEN, channels=weights)
    config = small_training(backbone, tmp_path, tmp_path, "anchor", flow=flow)
    with pytest.raises(ConfigError, match=sentence):
        check(config)


def test_a_decoder_alone_leaves_the_encoder_as_it_was(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    config = small_training(backbone, tmp_path, tmp_path, "vae", **DECODER)
    train(replace(config, trainer=TrainerSettings(max_steps=2)))
    before = load_vae(backbone).state_dict()
    after = load_file(tmp_path / "export" / "Wan2.2_VAE.safetensors")
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"decoder", "conv2"}


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalised_matrices_have_singular_values_near_one(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(newton_schulz(matrix, dtype))
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3


@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (24, 8)])
def test_matrices_together_become_what_each_becomes_alone(shape: tuple[int, int]) -> None:
    matrices = torch.randn((3, *shape), generator=torch.Generator().manual_seed(1))
    alone = torch.stack([newton_schulz(matrix) for matrix in matrices])
    torch.testing.assert_close(newton_schulz(matrices), alone)


def test_an_update_takes_few_values_of_several_parameters_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimizers, "TOGETHER", 100)
    sizes = (60, 40, 1, 200, 50, 50)
    parameters = [torch.zeros(size) for size in sizes]
    parts = list(optimizers.bounded(parameters))
    assert [[len(p) for p in part] for part in parts] == [[60, 40], [1], [200], [50, 50]]
    assert [len(part) for part in optimizers.alike(parameters)] == [1] * 6  # on a CPU
    meta = [torch.zeros(shape, device="meta") for shape in ((8, 5), (5, 8), (8, 5), (8, 5))]
    assert [[tuple(p.shape) for p in part] for part in optimizers.alike(meta)] == [
        [(8, 5), (8, 5)],
        [(8, 5)],
        [(5, 8)],
    ]


def test_muon_moves_a_convolution_by_an_orthogonal_matrix() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 2, 3, 3))
    group = dict(params=[weight], lr=0.5, muon=True)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    MuonAdamW([group], OptimizerSettings(), torch.float32).step()
    values = torch.linalg.svdvals(weight.detach().flatten(1)) / (0.5 * 0.2 * 18**0.5)
    assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_a_pass_through_start_predicts_the_noisy_latent(backbone: BackboneSettings) -> None:
    torch.manual_seed(0)
    network = ShortcutDiT(backbone.detail_dit, backbone.control_blocks)
    pass_through(network)
    x = torch.randn(2, 4, 2, 4, 8)
    with torch.no_grad():
        v = network(x, torch.tensor([300.0, 900.0]), network.encode_text([torch.zeros(1, 16)] * 2))
    assert torch.cosine_similarity(v.flatten(), x.flatten(), dim=0) > 0.9
    assert (v - x).square().mean() < 0.25


class TwoChannels(torch.nn.Module):
    """Stands for an autoencoder whose second channel varies 16 times as much as the first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(1, 2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
        return noise * torch.tensor([1.0, 16.0]).view(1, 2, 1, 1, 1), torch.zeros_like(noise)


def test_latent_statistics_lie_between_whitening_and_none() -> None:
    _, scale = latent_statistics(TwoChannels(), SIZE)  # type: ignore[arg-type]
    assert scale[1] / scale[0] == pytest.approx(4.0, rel=0.1)
    assert ((1 / scale[0]) ** 2 + (16 / scale[1]) ** 2) / 2 == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(crop=40), "data.crop=40 must be at most 32; nearest: 32"),
        (dict(crop=24), "data.crop=24 is not a multiple of 16; nearest: 16"),
        (dict(anchor_share=2), "data.anchor_share=2 must be at most 1.0; nearest: 1.0"),
        (dict(crop_frames=4), "data.crop_frames=4 is not 4n+1; nearest: 1"),
        (dict(held_out=0), "data.held_out=0 must be at least 1; nearest: 1"),
    ],
)
def test_impossible_data_is_refused_in_a_sentence(
    backbone: BackboneSettings, tmp_path: Path, changes: dict[str, int], sentence: str
) -> None:
    config = small_training(backbone, tmp_path, tmp_path, "vae")
    with pytest.raises(ConfigError) as refused:
        check(replace(config, data=replace(config.data, **changes)))
    assert str(refused.value) == sentence


def test_a_start_that_does_not_fit_is_refused(backbone: BackboneSettings, tmp_path: Path) -> None:
    path = Path(str(backbone.folder)) / "Wan2.2_VAE.safetensors"
    for given, problem in (
        (path, "is of another network: 0 of"),
        (tmp_path / "none", "is not a file"),
    ):
        config = small_training(backbone, tmp_path, tmp_path, "anchor", init_from=str(given))
        with pytest.raises(ValueError, match=problem):
            make_module(config)


def test_the_adapter_starts_as_configured(backbone: BackboneSettings, tmp_path: Path) -> None:
    config = small_training(
        *(backbone, tmp_path, tmp_path, "detail"),
        condition=ConditionSettings(adapter_init_std=0.0, pass_through=True),
    )
    network = make_module(config).network
    assert isinstance(network, ShortcutDiT)
    assert all(not layer.weight.any() for layer in network.spatial_adapter.zero_layers.values())
    assert network.head.head.weight.any()
