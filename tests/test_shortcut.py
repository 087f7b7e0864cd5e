"""The detail network's additions, and the targets it is trained with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelwizard.config.backbone import DiTSizes
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.training.targets import (
    TrainingGrid,
    flow_matching_target,
    noise_span_weights,
    reference_steps,
    sample_shortcuts,
    self_consistency_target,
    training_grid,
)

SIZES = DiTSizes(
    in_dim=4,
    out_dim=4,
    dim=64,
    ffn_dim=96,
    freq_dim=32,
    text_dim=8,
    text_len=6,
    num_heads=2,
    num_layers=3,
)


@pytest.fixture(scope="module")
def grid() -> TrainingGrid:
    return training_grid(5.5)


def inputs() -> tuple[Tensor, Tensor, list[Tensor], Tensor, Tensor]:
    """Latent, timesteps, texts, step sizes and anchor of a batch of two."""
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(2, 4, 2, 8, 12, generator=generator)
    anchor = torch.randn(2, 4, 2, 4, 6, generator=generator)
    texts = [torch.randn(n, 8, generator=generator) for n in (3, 6)]
    return latent, torch.tensor([900.0, 100.0]), texts, torch.tensor([200.0, 100.0]), anchor


def trained_looking(network: WanDiT) -> WanDiT:
    """Gives the layers that start at zero small values."""
    torch.manual_seed(5)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network


@torch.no_grad()
def test_additions_at_initialisation_change_no_bit() -> None:
    latent, time, texts, step, anchor = inputs()
    detail = ShortcutDiT(SIZES, control_blocks=[0, 2])
    torch.nn.init.normal_(detail.head.head.weight)
    base = WanDiT(SIZES)
    base.load_state_dict({k: detail.state_dict()[k] for k in base.state_dict()})
    features = detail.encode_anchor(anchor, (2, 4, 6))
    expected = base(latent, time, base.encode_text(texts))
    assert expected.abs().max() > 0.1
    text = detail.encode_text(texts)
    assert torch.equal(detail(latent, time, text, step, features), expected)
    assert torch.equal(detail(latent, time, text), expected)


@torch.no_grad()
def test_step_size_and_anchor_matter_after_training() -> None:
    latent, time, texts, step, anchor = inputs()
    network = trained_looking(ShortcutDiT(SIZES, control_blocks=[1]))
    text = network.encode_text(texts)
    features = network.encode_anchor(anchor, (2, 4, 6))
    full = network(latent, time, text, step, features)
    assert not torch.allclose(full, network(latent, time, text, step), atol=1e-3)
    assert not torch.allclose(full, network(latent, time, text, step / 2, features), atol=1e-3)
    zero = torch.zeros(2)
    without = network(latent, time, text, anchor_features=features)
    assert torch.equal(network(latent, time, text, zero, features), without)


@torch.no_grad()
def test_anchor_is_resized_frame_by_frame() -> None:
    latent, *_, anchor = inputs()
    network = ShortcutDiT(SIZES, control_blocks=[1])
    seen = []
    network.spatial_adapter.backbone[0].register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    network.encode_anchor(anchor, (2, 6, 9))
    for frame in range(2):
        expected = torch.nn.functional.interpolate(anchor[:, :, frame], (6, 9), mode="bilinear")
        assert torch.equal(seen[0][:, :, frame], expected)


@torch.no_grad()
@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("chunk", [5, 24, 40])
def test_chunks_of_tokens_and_streamed_blocks_change_nothing(chunk: int, on_host: bool) -> None:
    latent, time, texts, step, anchor = inputs()
    network = trained_looking(ShortcutDiT(SIZES, control_blocks=[0, 1]))
    whole = network(
        latent, time, network.encode_text(texts), step, network.encode_anchor(anchor, (2, 4, 6))
    )
    network.chunk, network.features_on_host = chunk, on_host
    network.stream_from_host(torch.device("cpu"), asynchronous=False)
    features = network.encode_anchor(anchor, (2, 4, 6))
    chunked = network(latent, time, network.encode_text(texts), step, features)
    assert torch.allclose(chunked, whole, atol=1e-5)


def test_anchor_of_another_length_is_refused() -> None:
    network = ShortcutDiT(SIZES, control_blocks=[1])
    with pytest.raises(ValueError, match="3 latent frames, the detail has 2"):
        network.encode_anchor(torch.zeros(1, 4, 3, 4, 6), (2, 4, 6))


def test_control_blocks_outside_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match="control_blocks contains 3"):
        ShortcutDiT(SIZES, control_blocks=[0, 3])


def test_first_gradients_reach_the_additions() -> None:
    latent, time, texts, step, anchor = inputs()
    network = ShortcutDiT(SIZES, control_blocks=[0, 1])
    torch.nn.init.normal_(network.head.head.weight)
    features = network.encode_anchor(anchor, (2, 4, 6))
    network(latent, time, network.encode_text(texts), step, features).square().mean().backward()
    for layer in (network.dt_embedding[2], *network.spatial_adapter.zero_layers.values()):
        assert layer.weight.grad.abs().max() > 0


def test_training_grid_is_shifted_and_weighted_to_mean_one(grid: TrainingGrid) -> None:
    assert grid.timesteps[0] == 1000
    assert (grid.timesteps.diff() < 0).all()
    assert grid.timesteps[500].item() == pytest.approx(1000 * 5.5 * 0.5 / 3.25, abs=1e-3)
    assert grid.weights.mean().item() == pytest.approx(1)
    assert grid.weights.argmin() == 0
    assert grid.timesteps[grid.weights.argmax()].item() == pytest.approx(500, abs=2)


def test_nearest_grid_point(grid: TrainingGrid) -> None:
    between = (0.6 * grid.timesteps[10] + 0.4 * grid.timesteps[11])[None]
    assert grid.nearest(between).tolist() == [10]
    assert grid.snap(torch.tensor([-5.0])).item() == grid.timesteps[-1]


def test_flow_matching_target_is_the_slope_of_the_path() -> None:
    x0, noise = torch.randn(2, 4, 1, 2, 2), torch.randn(2, 4, 1, 2, 2)
    x_t, target = flow_matching_target(x0, noise, torch.tensor([250.0, 1000.0]))
    assert torch.equal(target, noise - x0)
    assert torch.allclose(x_t[0], 0.75 * x0[0] + 0.25 * noise[0])
    assert torch.allclose(x_t[1], noise[1])


def test_shortcuts_favour_long_steps(grid: TrainingGrid) -> None:
    generator = torch.Generator().manual_seed(0)
    timesteps, sizes = sample_shortcuts(8000, reference_steps(grid), generator=generator)
    anchors = grid.snap(torch.tensor([500.0, 600.0, 700.0, 800.0]))
    assert set(timesteps.tolist()) == set(anchors.tolist())
    assert (sizes % 2 == 0).all() and (sizes >= 2).all()
    assert set(sizes[timesteps == anchors[2]].tolist()) == {700, 350, 174, 86, 42, 20}
    counts = [(sizes == size).sum().item() for size in (700, 350, 174)]
    assert counts[0] / counts[1] == pytest.approx(torch.e**0.7, rel=0.15)
    assert counts[1] / counts[2] == pytest.approx(torch.e**0.7, rel=0.2)


def test_straight_flow_is_its_own_shortcut(grid: TrainingGrid) -> None:
    slope = torch.randn(2, 4, 1, 2, 2)
    time = grid.snap(torch.tensor([800.0, 500.0]))
    target = self_consistency_target(
        lambda x, t, dt: slope, torch.randn_like(slope), time, torch.tensor([800.0, 20.0]), grid
    )
    assert torch.equal(target, slope)


def test_half_steps_are_taken_in_sigma(grid: TrainingGrid) -> None:
    """With v = x the middle is x (1 + sigma_mid - sigma_t), the target its mean with x."""
    x = torch.randn(2, 4, 1, 2, 2)
    time, size = grid.snap(torch.tensor([800.0, 600.0])), torch.tensor([400.0, 74.0])
    told = []

    def network(x: Tensor, timestep: Tensor, step_size: Tensor) -> Tensor:
        told.append((timestep, step_size))
        return x

    target = self_consistency_target(network, x, time, size, grid)
    middle = grid.snap(time - size / 2)
    growth = (1 + (middle - time) / 1000).view(2, 1, 1, 1, 1)
    assert torch.allclose(target, (x + growth * x) / 2)
    assert torch.equal(torch.stack([t for t, _ in told]), torch.stack([time, middle]))
    assert all(torch.equal(dt, size / 2) for _, dt in told)


def test_targets_carry_no_gradient(grid: TrainingGrid) -> None:
    weight = torch.ones(1, requires_grad=True)
    target = self_consistency_target(
        lambda x, t, dt: x * weight,
        torch.randn(1, 4, 1, 2, 2),
        torch.tensor([800.0]),
        torch.tensor([400.0]),
        grid,
    )
    assert not target.requires_grad


def test_noise_span_weights_follow_the_root_of_the_span(grid: TrainingGrid) -> None:
    time = grid.snap(torch.tensor([800.0, 800.0]))
    sizes = torch.tensor([400.0, 100.0])
    weights = noise_span_weights(time, sizes, grid)
    spans = (grid.snap(time - sizes) - time).abs()
    assert (weights[0] / weights[1]).item() == pytest.approx((spans[0] / spans[1]).sqrt().item())
    alone = noise_span_weights(time[:1], sizes[:1], grid)
    assert torch.allclose(alone, grid.weight(time[:1]))


def test_noise_span_weights_are_clamped(grid: TrainingGrid) -> None:
    time = grid.snap(torch.full((400,), 800.0))
    sizes = torch.full((400,), 2.0)
    sizes[0] = 800.0
    base = grid.weight(time)
    factors = noise_span_weights(time, sizes, grid) / base
    assert factors.max().item() == pytest.approx(10) and factors.min() >= 0.1
