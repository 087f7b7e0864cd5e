"""The network with two times per sample, as image to video asks it, and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import BACKBONE, randomise, small_training, write_backbone
from test_golden import TOLERANCE, GoldenDiT, relative_error
from torch import Tensor

from pixelwizard.config.objective import FlowSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import Modulation, WanDiT, spans
from pixelwizard.training.networks.anchor import TrainedAnchor
from pixelwizard.training.passes import first_frames
from pixelwizard.training.train import make_module

SHAPE = (2, 4, 3, 8, 12)


@pytest.fixture(scope="module")
def io(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "ti2v_io.safetensors")


@pytest.fixture(scope="module")
def official(golden: Path) -> WanDiT:
    return GoldenDiT(golden).base()


@pytest.fixture
def network() -> ShortcutDiT:
    torch.manual_seed(0)
    made = ShortcutDiT(BACKBONE.detail_dit, BACKBONE.control_blocks)
    return randomise(made)  # type: ignore[return-value]


def inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    names = ("latent", "anchor")
    return {name: torch.randn(*SHAPE, generator=draw) for name in names}


def ask(network: ShortcutDiT, timestep: Tensor, step_size: Tensor) -> Tensor:
    """The velocity of fixed latents, texts and anchors."""
    given, draw = inputs(), torch.Generator().manual_seed(2)
    text = network.encode_text([torch.randn(n, 16, generator=draw) for n in (3, 5)])
    features = network.encode_anchor(given["anchor"], (3, 4, 6))
    return network(given["latent"], timestep, text, step_size, features)


@torch.no_grad()
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("chunk", [7, 8192])
def test_two_times_equal_the_official_timesteps_of_each_token(
    official: WanDiT, io: dict[str, Tensor], number: int, chunk: int
) -> None:
    own = {n.removeprefix(f"forward_{number}_"): t for n, t in io.items()}
    given = not bool(own["mask"][0, 0, 0].any())
    time = own["t"]
    times = torch.stack((torch.zeros_like(time) if given else time, time), dim=1)
    official.chunk = chunk
    found = official(own["latent"], times, official.encode_text([own["context"]]))
    assert relative_error(found, own["velocity"]) < TOLERANCE


@torch.no_grad()
def test_one_time_given_twice_is_one_time(network: ShortcutDiT) -> None:
    times, sizes = torch.tensor([900.0, 100.0]), torch.tensor([200.0, 50.0])
    once = ask(network, times, sizes)
    twice = ask(network, *(values[:, None].expand(2, 2) for values in (times, sizes)))
    assert torch.allclose(once, twice, atol=1e-5)


@torch.no_grad()
def test_given_and_generated_first_frames_mix_in_a_batch(network: ShortcutDiT) -> None:
    times, sizes = torch.tensor([900.0, 100.0]), torch.tensor([200.0, 50.0])
    mixed = [torch.stack((v * torch.tensor([0.0, 1.0]), v), dim=1) for v in (times, sizes)]
    found, plain = ask(network, *mixed), ask(network, times, sizes)
    assert torch.allclose(found[1], plain[1], atol=1e-5)
    assert not torch.allclose(found[0], plain[0], atol=1e-2)


def test_training_and_inference_agree_on_two_times(network: ShortcutDiT) -> None:
    times = torch.tensor([[0.0, 900.0], [0.0, 100.0]])
    with torch.no_grad():
        network.chunk = 5
        inference = ask(network, times, times / 4)
    assert torch.allclose(ask(network, times, times / 4), inference, atol=1e-5)


def test_no_span_crosses_the_border() -> None:
    assert [(s.start, s.stop) for s in spans(10, 4, 6)] == [(0, 4), (4, 6), (6, 10)]
    assert list(spans(10, 4)) == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_a_sample_keeps_two_sets_of_vectors_whatever_its_tokens() -> None:
    vectors = torch.randn(1, 2, 6, 8)
    first, second = (Modulation(vectors, 24).of(span) for span in spans(48, 48, 24))
    assert len(first) == 6 and all(vector.shape == (1, 1, 8) for vector in (*first, *second))
    assert torch.equal(first[3][0, 0], vectors[0, 0, 3])
    assert torch.equal(second[3][0, 0], vectors[0, 1, 3])


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> TrainedAnchor:
    """An anchor in training with every first latent frame given."""
    folder = tmp_path_factory.mktemp("first_frame")
    backbone = write_backbone(folder / "weights")
    flow = FlowSettings(weighting="uniform", first_frame=1.0)
    config = small_training(backbone, folder / "run", folder / "latents", "anchor", flow=flow)
    return make_module(config)  # type: ignore[return-value]


def batch(first: float) -> dict[str, object]:
    latent = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    latent[:, :, 0] = first
    texts = [torch.ones(2, 16)] * 2
    return {"latent": latent, "text": texts, "empty": texts, "step": 0}


def test_training_shows_the_network_the_given_frame_clean_at_time_zero(
    module: TrainedAnchor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def forward(latent: Tensor, timestep: Tensor, text: object) -> Tensor:
        seen.append((latent, timestep))
        return torch.zeros_like(latent)

    monkeypatch.setattr(module.network, "forward", forward)
    module.loss(module.network, batch(first=7.0))
    ((latent, times),) = seen
    assert (latent[:, :, 0] == 7).all() and (times[:, 0] == 0).all() and (times[:, 1] > 0).all()


def test_the_given_frame_has_no_part_in_the_loss(
    module: TrainedAnchor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.network, "forward", lambda x, *_: torch.zeros_like(x))
    losses = [float(module.loss(module.network, batch(first))) for first in (0.0, 100.0)]
    assert losses[0] == losses[1] > 0


def test_the_share_of_given_first_frames_is_drawn_by_the_step() -> None:
    found, again, other = (first_frames(torch.zeros(4000, 1, 2, 2, 2), 0.25, k) for k in (5, 5, 6))
    assert found and again and other and 0.22 < found.given_B.float().mean() < 0.28
    assert torch.equal(found.given_B, again.given_B)
    assert not torch.equal(found.given_B, other.given_B)
    assert first_frames(torch.zeros(4000, 1, 2, 2, 2), 0.0, 5) is None


def test_a_given_frame_needs_frames_after_it(module: TrainedAnchor) -> None:
    size = replace(module.config.resolution, frames=1)
    with pytest.raises(ConfigError, match="first_frame=1.0 leaves nothing to learn"):
        replace(module.config, resolution=size).check()
