"""The method as mathematics: flows with known solutions, frequencies, and where gradients go.

The flow of Gaussian data has a linear velocity whose mean over any step is known in closed form:
an exact network of it, told the size of its step, is what shortcut training is to arrive at.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from page import EXAMPLES
from safetensors.torch import load_file
from small import small_training, write_backbone
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.config.backbone import DiTSizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.objective import OBJECTIVES, ObjectiveSettings, ShortcutSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.targets import Target
from pixelwizard.config.train import TrainConfig
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.training.objectives.base import FLOW
from pixelwizard.training.objectives.flow import Flow
from pixelwizard.training.objectives.shortcut import CONSISTENCY, Shortcut, schedules_to_use
from pixelwizard.training.targets import (
    TrainingGrid,
    noise_span_weights,
    reference_steps,
    sample_shortcuts,
    self_consistency_target,
    training_grid,
)
from pixelwizard.training.train import train

SPREAD = 0.4
"""Standard deviation of the data; the noise has 1."""
SIZES = DiTSizes(
    **dict(in_dim=4, out_dim=4, dim=64, ffn_dim=32, freq_dim=16),
    **dict(text_dim=4, text_len=2, num_heads=2, num_layers=1),
)
SHAPE = (2, 4, 1, 4, 4)


@pytest.fixture(scope="module")
def grid() -> TrainingGrid:
    return training_grid(5.5)


def deviation(sigma: Tensor) -> Tensor:
    """Of x at a noise level."""
    return (SPREAD**2 * (1 - sigma) ** 2 + sigma**2).sqrt()


def exact(x: Tensor, time_B: Tensor, size_B: Tensor) -> Tensor:
    """The exact mean velocity from t to t - dt, at dt = 0 the velocity itself, in float64.

    On its path x keeps its place among the data: x(sigma) is proportional to ``deviation``.
    """
    start, end = time_B.double() / 1000, (time_B - size_B).double() / 1000
    growth = deviation(end) / deviation(start)
    mean = (growth - 1) / (end - start)
    slope = (start - SPREAD**2 * (1 - start)) / deviation(start) ** 2
    factor = torch.where(size_B > 0, mean, slope)
    return factor.view(-1, 1, 1, 1, 1) * x.double()


def config_of(**settings: Any) -> TrainConfig:
    shortcut = ShortcutSettings(**settings)
    return TrainConfig(
        run_dir="",
        resolution=ResolutionSettings(shift=5.5),
        objective=ObjectiveSettings(kind="shortcut", shortcut=shortcut),
    )


def objective(**settings: Any) -> Shortcut:
    return Shortcut(config_of(**settings))


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_target_on_a_linear_flow_is_the_mean_of_two_exact_half_steps(
    grid: TrainingGrid,
) -> None:
    """v = a x: two Euler halves of length h multiply x by (1 + a h)."""
    x, a = torch.randn(SHAPE, dtype=torch.float64, generator=draw()), 0.7
    time, size = torch.tensor([800.0, 600.0]), torch.tensor([400.0, 74.0])
    for half_step in ("sigma", "timestep"):
        time = grid.snap(time)
        middle = grid.snap(time - size / 2) if half_step == "sigma" else time - size / 2
        h = ((middle - time).double() / 1000).view(2, 1, 1, 1, 1)
        target = self_consistency_target(lambda x, t, dt: a * x, x, time, size, grid, half_step)
        assert torch.allclose(target, (a * x + a * (x + h * a * x)) / 2, rtol=1e-6)


def test_an_exact_teacher_has_no_self_consistency_loss(grid: TrainingGrid) -> None:
    """Steps whose middle lies on the grid leave only rounding; off the grid the snapping shows."""
    x = torch.randn(SHAPE, dtype=torch.float64, generator=draw())
    time = grid.timesteps[torch.tensor([300, 500])]
    middle = grid.timesteps[torch.tensor([500, 800])]
    size = 2 * (time - middle)
    for half_step in ("sigma", "timestep"):
        target = self_consistency_target(exact, x, time, size, grid, half_step)
        assert torch.allclose(target, exact(x, time, size), atol=1e-6)
    wrong = self_consistency_target(exact, x, time, 1.2 * size, grid)
    assert not torch.allclose(wrong, exact(x, time, size), atol=1e-3)


def test_the_objective_of_an_exact_network_is_nearly_zero_and_of_another_is_not() -> None:
    """The reference's steps snap their middle to the grid: an error of at most half a spacing."""
    x0 = SPREAD * torch.randn(64, *SHAPE[1:], generator=draw())
    for half_step, bound in (("sigma", 1e-5), ("timestep", 1e-9)):
        rule = objective(half_step=half_step)
        target = rule.target(CONSISTENCY, exact, x0, draw(1))
        found = exact(target.x_t, target.timestep_B, target.step_size_B)
        assert (found - target.velocity).square().mean() < bound
        instant = exact(target.x_t, target.timestep_B, torch.zeros_like(target.timestep_B))
        assert (instant - target.velocity).square().mean() > 1e-3


@pytest.mark.parametrize("bias", [0.7, 0.0])
def test_halvings_are_as_frequent_as_their_bias_says(grid: TrainingGrid, bias: float) -> None:
    count, rule = 40_000, ShortcutSettings(anchors=[640], index_bias=bias)
    _, sizes = sample_shortcuts(count, reference_steps(grid, rule), rule, draw())
    expected = [math.exp(-bias * k) for k in range(6)]
    for k, weight in enumerate(expected):
        share = weight / sum(expected)
        error = math.sqrt(share * (1 - share) / count)
        assert float((sizes == 640 // 2**k).float().mean()) == pytest.approx(share, abs=4 * error)


def test_flow_matching_is_the_slope_of_the_path_at_spread_times() -> None:
    x0, rule = torch.randn(8, *SHAPE[1:], generator=draw()), Flow(TrainConfig(run_dir=""))
    target = rule.target(FLOW, exact, x0, draw(1))
    sigma = (target.timestep_B / 1000).view(-1, 1, 1, 1, 1)
    assert torch.allclose(target.x_t, x0 + sigma * target.velocity, atol=1e-5)
    assert not target.step_size_B.any()
    eighths = rule.grid.nearest(target.timestep_B) * 8 // 1000
    assert sorted(eighths.tolist()) == list(range(8))


def test_calibration_can_be_left_out(grid: TrainingGrid) -> None:
    time, size = grid.snap(torch.full((3,), 800.0)), torch.tensor([800.0, 400.0, 100.0])
    plain = noise_span_weights(time, size, grid, ShortcutSettings(span_exponent=0.0))
    assert torch.equal(plain, grid.weight(time))


def test_scheduled_steps_are_those_of_all_schedules_and_their_halves() -> None:
    config = config_of(sampling="schedules", steps=[1, 4], shifts=[5.5, 5.8])
    config = replace(config, schedule=SamplerSettings(solver="unipc"))
    assert len(schedules_to_use(config)) == 4
    time, size = Shortcut(config).sample(6000, draw())
    pairs = list(zip(time.tolist(), size.tolist(), strict=True))
    published = [(999, 56), (942, 96), (845, 198), (646, 646), (945, 92), (658, 658)]
    assert {(float(t), float(dt)) for t, dt in published} <= set(pairs)
    once = sum(t == 999 and dt == 998 for t, dt in pairs) / len(pairs)
    shares = [math.exp(-0.7 * k) for k in range(6)]
    assert once == pytest.approx(0.5 * shares[0] / sum(shares), abs=0.02)


def test_a_share_of_the_steps_still_follows_the_reference() -> None:
    rule = objective(sampling="schedules", reference_share=0.25)
    time, _ = rule.sample(4000, draw())
    by_rule = torch.isin(time, reference_steps(rule.grid).timesteps).float().mean()
    assert float(by_rule) == pytest.approx(0.25, abs=0.03)


def test_a_step_has_one_kind_of_target_and_none_of_consistency_before_the_start() -> None:
    rule = objective(start=0.5, probability=0.3)
    assert {rule.target_kind(draw(seed), 0.49) for seed in range(50)} == {FLOW}
    found = [rule.target_kind(draw(seed), 0.5) for seed in range(2000)]
    assert found.count(CONSISTENCY) / 2000 == pytest.approx(0.3, abs=0.04)


def small_network() -> ShortcutDiT:
    torch.manual_seed(0)
    network = ShortcutDiT(SIZES, [0])
    torch.nn.init.normal_(network.head.head.weight, std=0.1)
    return network.double()


def test_the_gradient_flows_through_the_students_prediction_alone() -> None:
    """Central differences of the loss, with the targets held, agree with backward; moving the
    targets too gives another slope."""
    network, rule = small_network(), objective()
    x0, text = torch.randn(SHAPE, dtype=torch.float64, generator=draw()), [torch.ones(1, 4)] * 2
    parameter = network.blocks[0].ffn[0].weight

    def loss(target: Any = None) -> tuple[Tensor, Any]:
        keys = network.encode_text(text)

        def velocity(x: Tensor, t: Tensor, dt: Tensor) -> Tensor:
            return network(x, t, keys, dt).double()

        target = target or rule.target(CONSISTENCY, velocity, x0, draw(1))
        found = velocity(target.x_t, target.timestep_B, target.step_size_B)
        error_B = (found - target.velocity).square().flatten(1).mean(1)
        return (target.weight_B * error_B).mean(), target

    value, target = loss()
    value.backward()
    direction = torch.randn(parameter.shape, dtype=torch.float64, generator=draw(2))
    slope = float((parameter.grad * direction).sum())

    def difference(held: Any, step: float = 1e-3) -> float:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(float(loss(held)[0]))
                parameter.sub_(sign * step * direction)
        return (values[0] - values[1]) / (2 * step)

    assert difference(target) == pytest.approx(slope, rel=2e-3)
    assert difference(None) != pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize(
    "settings, stage, sentence",
    [
        (dict(kind="vae"), "detail", "stage=detail is for objective=.*shortcut, not for vae"),
        (dict(shortcut=ShortcutSettings(probability=0.5)), None, "objective.shortcut is not used"),
        (dict(kind="shortcut", shortcut=ShortcutSettings(reference_share=0.5)), None, "is for"),
        (dict(kind="shortcut", shortcut=ShortcutSettings(anchors=[])), None, "at least one"),
        (dict(kind="shortcut", shortcut=ShortcutSettings(span_limits=[2.0, 1.0])), None, "upper"),
    ],
)
def test_objectives_that_cannot_be_are_refused_in_a_sentence(
    settings: dict[str, Any], stage: Any, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        objective = replace(ObjectiveSettings(), **settings)
        check(objective, "objective")
        objective.check_stage(stage)
    assert "\n" not in str(refused.value)


@pytest.fixture
def of_the_page(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> TrainConfig:
    """A training by the page's objective, composed from the page's files."""
    (tmp_path / "conf/objective").mkdir(parents=True)
    for name in ("thirds.py", "conf/objective/thirds.yaml"):
        (tmp_path / name).write_text(EXAMPLES[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (job,) = compose("train", ["objective=thirds", "run_dir=run"])
    assert job.config.objective.target == Target("thirds.Thirds", {"parts": 3})
    return job.config  # type: ignore[no-any-return]


def test_the_objective_of_the_page_asks_of_an_exact_network_what_it_says(
    of_the_page: TrainConfig,
) -> None:
    rule = OBJECTIVES.make(of_the_page.objective.part, "objective", config=of_the_page)
    x0 = SPREAD * torch.randn(64, *SHAPE[1:], generator=draw(), dtype=torch.float64)
    target = rule.target(CONSISTENCY, exact, x0, draw(1))
    found = exact(target.x_t, target.timestep_B, target.step_size_B)
    assert torch.allclose(found, target.velocity, atol=1e-9)
    assert rule.target(FLOW, exact, x0, draw(1)).step_size_B.max() == 0


def test_the_objective_of_the_page_trains_and_exports(
    of_the_page: TrainConfig, tmp_path: Path
) -> None:
    backbone = write_backbone(tmp_path / "weights")
    config = small_training(backbone, tmp_path / "run", tmp_path / "latents", "detail")
    rule = ShortcutSettings(probability=0.5)
    objective = replace(config.objective, target=of_the_page.objective.target, shortcut=rule)
    train(replace(config, objective=objective))
    kinds = [row.split(",")[1] for row in (tmp_path / "run/buckets.csv").read_text().splitlines()]
    assert {FLOW, CONSISTENCY} <= set(kinds)
    made = load_file(tmp_path / "run" / "export" / "detail" / "model.safetensors")
    start = dict(ShortcutDiT(backbone.detail_dit, backbone.control_blocks).state_dict())
    assert made.keys() == start.keys()
    zeros = [n for n, t in start.items() if n.startswith("dt_embedding") and not t.any()]
    assert zeros and all(made[name].any() for name in zeros)
