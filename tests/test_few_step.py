"""The few-step objectives on a flow whose solution is known, and where their gradients go.

Gaussian data have a linear velocity, and mean velocities in closed form (``test_objectives``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import FEW_STEP, few_step, randomise, small_training, write_backbone
from test_objectives import SHAPE, SPREAD, draw, exact
from test_train import fixed_batch
from torch import Tensor

from pixelwizard.cli.compose import compose
from pixelwizard.cli.tasks.train import check as check_command
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.few_step import (
    ConsistencySettings,
    DMDSettings,
    FlowMapSettings,
    MeanFlowSettings,
    ProgressiveSettings,
)
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.objective import OBJECTIVES, FlowSettings, ObjectiveSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.train import TrainConfig
from pixelwizard.diffusion.sampling import add_noise, keyed_generator
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.checkpoints import find_weights
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.weights import check_weights, load_anchor
from pixelwizard.stages.latents import Anchor
from pixelwizard.training.objectives.base import FLOW, Objective
from pixelwizard.training.objectives.dmd import DISTRIBUTION, SCORE
from pixelwizard.training.objectives.flow_map import MAP
from pixelwizard.training.objectives.mean_flow import INTERVAL
from pixelwizard.training.passes import Conditions, Passes
from pixelwizard.training.targets import by_differences, by_jvp
from pixelwizard.training.train import make_module, train

WIDE = (8, 4, 1, 64, 64)


def passes(student: Any, teacher: Any = exact, score: Any = exact, count: int = 8) -> Passes:
    """Functions (x, t, dt) in place of networks; without text they give half."""
    conditions = Conditions([], [], torch.ones(count, dtype=torch.bool), (1, 1, 1))

    class Function:
        takes_step_size = True

        def __init__(self, velocity: Any) -> None:
            self.velocity = velocity

        def encode_text(self, texts: Any) -> Any:
            return 1.0 if texts is conditions.texts else 0.5

        def __call__(self, x_t: Tensor, time: Tensor, text: Any, size: Tensor) -> Tensor:
            return text * self.velocity(x_t, time, size)

    further = {"teacher": Function(teacher), "score": Function(score)}
    return Passes(Function(student), conditions, **further)


def objective(kind: str, **settings: Any) -> Objective:
    flow = FlowSettings(weighting="uniform") if kind == "flow_map" else FlowSettings()
    given = ObjectiveSettings(kind=kind, **{"flow": flow, **settings})
    size = ResolutionSettings(shift=5.0)
    config = TrainConfig(run_dir="", resolution=size, objective=given)
    made: Objective = OBJECTIVES.make(kind, "objective", config=config)
    return made


def data(shape: tuple[int, ...] = WIDE) -> Tensor:
    return SPREAD * torch.randn(shape, dtype=torch.float64, generator=draw())


def fitted(target: Tensor, x: Tensor) -> Tensor:
    """The factors [B] that bring x nearest to a target: that of the mean target at x."""
    return (target * x).flatten(1).sum(1) / x.square().flatten(1).sum(1)


def factor(time_B: Tensor, size_B: Tensor) -> Tensor:
    """The exact mean velocity is this times x."""
    return exact(torch.ones(len(time_B), 1, 1, 1, 1), time_B, size_B).flatten()


@pytest.mark.parametrize("derivative", ["differences", "jvp"])
@pytest.mark.parametrize("kind", ["flow_map", "mean_flow"])
def test_the_mean_target_of_an_interval_is_the_exact_mean_velocity(
    kind: str, derivative: Any
) -> None:
    rule = objective(
        kind,
        flow_map=FlowMapSettings(to_data=0.5),
        mean_flow=MeanFlowSettings(derivative=derivative, mix=0.0),
    )
    target = rule.target(rule.kinds[1], passes(exact), data(), draw(1))
    expected = factor(target.timestep_B, target.step_size_B)
    assert torch.allclose(fitted(target.velocity, target.x_t), expected, atol=0.06)
    wrong = factor(target.timestep_B, torch.zeros_like(target.timestep_B))
    assert (expected - wrong).abs().max() > 0.3


def test_the_target_of_an_interval_is_its_closed_form() -> None:
    """v - d (f v + f' x) for u = f(t, d) x, f' along the path at a fixed end."""
    rule = objective("flow_map")
    target = rule.target(MAP, passes(exact), data(SHAPE), draw(1))
    x, time_B, size_B = target.x_t, target.timestep_B, target.step_size_B
    sigma = (time_B / 1000).view(-1, 1, 1, 1, 1)
    noise = (x - (1 - sigma) * data(SHAPE)) / sigma
    velocity = noise - data(SHAPE)
    step = 0.01
    slope = (factor(time_B + step, size_B + step) - factor(time_B - step, size_B - step)) / 2e-5
    change = (factor(time_B, size_B).view_as(sigma) * velocity) + slope.view_as(sigma) * x
    expected = velocity - (size_B / 1000).view_as(sigma) * change
    assert torch.allclose(target.velocity, expected, atol=2e-2)


@pytest.mark.parametrize("ends", [(0.0, 0.0), (3.0, 2.0), (1000.0, 1000.0), (998.0, 1.0)])
def test_differences_stay_on_the_path_and_agree_with_forward_mode(
    ends: tuple[float, float],
) -> None:
    time_B, size_B = (torch.full((2,), value, dtype=torch.float64) for value in ends)
    x, direction = (torch.randn(SHAPE, dtype=torch.float64, generator=draw(s)) for s in (0, 1))
    asked: list[Tensor] = []

    def smooth(x: Tensor, time_B: Tensor, size_B: Tensor) -> Tensor:
        asked.append(torch.stack([time_B, size_B]).detach())
        both = (time_B / 1000 + (size_B / 1000) ** 2).view(-1, 1, 1, 1, 1)
        return torch.sin(both) * x

    found = by_differences(smooth, x, time_B, size_B, direction, 0.01)
    assert all(0 <= float(v.min()) and float(v.max()) <= 1000 for v in asked)
    assert all(torch.allclose(time - size, time_B - size_B) for time, size in asked)
    assert torch.allclose(found, by_jvp(smooth, x, time_B, size_B, direction), atol=1e-3)


def test_differences_and_forward_mode_agree_on_the_network(backbone: BackboneSettings) -> None:
    torch.manual_seed(0)
    network = randomise(ShortcutDiT(backbone.detail_dit, [0]), 0.1).double()
    x, direction = (torch.randn(SHAPE, dtype=torch.float64, generator=draw(s)) for s in (0, 1))
    text = network.encode_text([torch.randn(3, 16, generator=draw(2)).double()] * 2)
    inputs = (x, torch.tensor([700.0, 300.0]).double(), torch.tensor([400.0, 300.0]).double())

    def velocity(x: Tensor, time_B: Tensor, size_B: Tensor) -> Tensor:
        return network(x, time_B, text, size_B).double()

    with torch.no_grad():
        exactly = by_jvp(velocity, *inputs, direction)
    near = by_differences(velocity, *inputs, direction, 0.1)
    assert (near - exactly).norm() < 0.02 * exactly.norm()


def test_forgetting_that_the_step_size_moves_is_another_derivative() -> None:
    x = torch.randn(SHAPE, dtype=torch.float64, generator=draw())
    time_B, size_B = torch.tensor([700.0, 400.0]).double(), torch.tensor([300.0, 400.0]).double()
    moving = by_differences(exact, x, time_B, size_B, x, 0.1)
    still = by_differences(lambda x, t, d: exact(x, t, size_B), x, time_B, size_B, x, 0.1)
    assert (moving - still).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_an_exact_network_is_consistent_along_the_path_of_an_exact_teacher(kind: Any) -> None:
    settings = ConsistencySettings(kind=kind, parts=1000, guidance=1.0, warmup=0, difference=0.1)
    rule = objective("consistency", consistency=settings)
    target = rule.target("consistency", passes(exact), data(), draw(1))
    assert torch.equal(target.step_size_B, target.timestep_B)
    found = exact(target.x_t, target.timestep_B, target.step_size_B)
    assert torch.allclose(found, target.velocity, atol=5e-3)
    instant = exact(target.x_t, target.timestep_B, torch.zeros_like(target.timestep_B))
    assert (instant - target.velocity).abs().max() > 0.3


def test_a_step_of_an_exact_student_lands_where_two_of_its_teacher_do() -> None:
    rule = objective("progressive", progressive=ProgressiveSettings(counts=[4, 2]))
    first = rule.target("halves", passes(exact), data(SHAPE), draw(1))
    assert rule.begin(5, 0.6) and not rule.begin(6, 0.7)
    target = rule.target("halves", passes(exact), data(SHAPE), draw(1))
    found = exact(target.x_t, target.timestep_B, target.step_size_B)
    assert torch.allclose(found, target.velocity, atol=1e-6)
    assert (first.step_size_B < target.step_size_B).all()
    instant = exact(first.x_t, first.timestep_B, torch.zeros_like(first.timestep_B))
    assert not torch.allclose(first.velocity, instant, atol=1e-2)


@pytest.mark.parametrize("rollout", ["renoise", "jumps"])
def test_an_exact_student_is_as_likely_as_its_teacher_and_another_is_pulled(rollout: Any) -> None:
    rule = objective("dmd", dmd=DMDSettings(rollout=rollout, guidance=1.0))
    target = rule.target(DISTRIBUTION, passes(exact), data(), draw(1))
    assert target.found is not None and torch.equal(target.found, target.velocity)
    assert float(target.found.std()) == pytest.approx(SPREAD, rel=0.02)

    def narrow(x: Tensor, time_B: Tensor, size_B: Tensor) -> Tensor:
        """The velocity of data without spread: every clean latent is 0."""
        return x / (time_B / 1000).view(-1, 1, 1, 1, 1)

    target = rule.target(DISTRIBUTION, passes(exact, score=narrow), data(), draw(1))
    assert target.found is not None
    sigma = (target.timestep_B / 1000).view(-1, 1, 1, 1, 1)
    real = target.x_t - sigma * exact(target.x_t, target.timestep_B, 0 * target.timestep_B)
    size = (target.found - real).abs().flatten(1).mean(1).view_as(sigma)
    assert torch.allclose(target.velocity - target.found, real / size, atol=1e-6)


def test_the_score_learns_the_students_samples_in_all_steps_but_every_fifth() -> None:
    rule = objective("dmd")
    kinds = []
    for step in range(10):
        rule.begin(step, 0.0)
        kinds.append(rule.target_kind(draw(step), 0.0))
    assert [n for n, kind in enumerate(kinds) if kind == DISTRIBUTION] == [4, 9]
    target = rule.target(SCORE, passes(exact), data(), draw(1))
    assert target.found is not None
    assert torch.equal(target.found, exact(target.x_t, target.timestep_B, 0 * target.timestep_B))
    clean = (
        add_noise(target.x_t, 0 * target.x_t, torch.zeros(8))
        - (target.timestep_B / 1000).view(-1, 1, 1, 1, 1) * target.velocity
    )
    assert float(clean.std()) == pytest.approx(SPREAD, rel=0.02)


@pytest.mark.parametrize("kind", ["flow", "flow_map", "mean_flow"])
def test_guidance_that_is_trained_in_is_that_of_sampling(kind: str) -> None:
    """At the velocity itself the mean target is u + g (c - u), here u = c / 2: (1 + g) c / 2."""
    flow = FlowSettings(weighting="uniform" if kind != "mean_flow" else "bell", guidance=3.0)
    rule = objective(kind, flow=flow)
    target = rule.target(FLOW, passes(exact), data(), draw(1))
    conditional = factor(target.timestep_B, torch.zeros_like(target.timestep_B))
    assert torch.allclose(fitted(target.velocity, target.x_t), 2 * conditional, atol=0.15)


def test_a_sample_without_text_is_not_guided() -> None:
    rule, given = objective("flow", flow=FlowSettings(guidance=3.0)), passes(exact)
    given.conditions.kept_B[:4] = False
    plain = objective("flow").target(FLOW, passes(exact), data(), draw(1))
    guided = rule.target(FLOW, given, data(), draw(1))
    alike = [torch.equal(a, b) for a, b in zip(guided.velocity, plain.velocity, strict=True)]
    assert alike == [True] * 4 + [False] * 4
    assert torch.allclose(guided.weight_B[4:], plain.weight_B[4:] / 9)


def test_an_interval_is_no_longer_than_allowed_and_grows_with_the_training() -> None:
    rule = objective("mean_flow", mean_flow=MeanFlowSettings(longest=0.4, rise=0.5))
    longest = []
    for progress in (0.1, 0.25, 0.5, 1.0):
        rule.begin(0, progress)
        target = rule.target(INTERVAL, passes(exact), data(SHAPE).repeat(64, 1, 1, 1, 1), draw(1))
        longest.append(float(target.step_size_B.max()))
    assert longest == pytest.approx([80, 200, 400, 400], abs=1)


def test_the_loss_of_a_map_is_brought_to_that_of_flow_matching() -> None:
    rule = objective("flow_map")
    target = rule.target(MAP, passes(exact), data(SHAPE), draw(1))
    error_B = torch.tensor([0.01, 4.0])
    assert target.rescale is not None
    assert target.rescale(error_B).tolist() == [1.0, 1.0]
    rule.learn(FLOW, 0.5)
    rule.learn(MAP, 70.0)
    assert (error_B * target.rescale(error_B)).tolist() == pytest.approx([0.5, 0.5], rel=2e-3)
    rule.learn(FLOW, 1.5)
    assert float(rule.flow_error) == pytest.approx(0.6)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


CASES = [(name, number) for name in FEW_STEP for number in (0, 1)]


@pytest.mark.parametrize(("name", "number"), CASES)
@pytest.mark.parametrize("part", ["detail"])
def test_gradients_reach_the_student_through_its_own_passes_alone(
    backbone: BackboneSettings, tmp_path: Path, name: str, number: int, part: str
) -> None:
    """Central differences of the loss, its target held, agree with backward."""
    config = small_training(backbone, tmp_path, tmp_path, part, **few_step(name))
    module = make_module(replace(config, stage=part)).double()
    for network in (module.network, *module.further.values()):
        randomise(network, 0.06)
    if name == "dmd":  # its passes before the last are without gradients
        module.objective.settings = DMDSettings(timesteps=[1000.0])
    kinds, batch = module.objective.kinds, fixed_batch()
    kind = kinds[number % len(kinds)]
    trained = module.further[SCORE] if kind == SCORE else module.network
    x0, parameter = batch["latent"].double(), trained.blocks[0].ffn[0].weight
    batch["text"] = [text.double() for text in batch["text"]]
    batch["empty"] = [text.double() for text in batch["empty"]]

    def loss(held: Any = None) -> tuple[Tensor, Any]:
        given = module.passes(module.network, batch, keyed_generator("condition"))
        fresh = module.objective.target(kind, given, x0, keyed_generator("target"))
        held = held or fresh
        found = fresh.found
        if found is None:
            found = given(held.x_t, held.timestep_B, held.step_size_B)
        return (found.double() - held.velocity.detach()).square().mean(), held

    value, target = loss()
    value.backward()
    reached = {n.split(".")[0] for n, p in module.named_parameters() if p.grad is not None}
    assert reached == ({"further"} if kind == SCORE else {"network"})
    assert all(p.grad is None for n, p in module.named_parameters() if "teacher" in n)
    direction = torch.randn(parameter.shape, dtype=torch.float64, generator=draw(2))
    slope, step, values = float((parameter.grad * direction).sum()), 1e-3, []
    for sign in (1, -1):
        parameter.data.add_(sign * step * direction)
        values.append(float(loss(target)[0].detach()))
        parameter.data.sub_(sign * step * direction)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize(("name", "number"), CASES)
@pytest.mark.parametrize("part", ["anchor", "detail"])
def test_what_networks_say_of_a_given_first_frame_changes_no_loss(
    backbone: BackboneSettings, tmp_path: Path, name: str, number: int, part: str
) -> None:
    given = few_step(name)
    given["flow"] = replace(given["flow"], first_frame=1.0)
    config = small_training(backbone, tmp_path, tmp_path, part, **given)
    module, losses = make_module(replace(config, stage=part)), []
    kinds = module.objective.kinds
    module.target_kind = lambda _: kinds[number % len(kinds)]
    for said in (0.0, 9.0):

        def saying(network: Any, inputs: Any, found: Tensor, said: float = said) -> Tensor:
            return torch.cat([found[:, :, :1] + said, found[:, :, 1:]], dim=2)

        hooks = [network.register_forward_hook(saying) for network in module.networks]
        losses.append(module.loss(module.network, fixed_batch()).item())
        for hook in hooks:
            hook.remove()
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] > 0


def test_a_student_becomes_the_next_teacher_when_its_stage_ends(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    config = small_training(backbone, tmp_path, tmp_path, "detail", **few_step("progressive"))
    module = make_module(config)
    before = [p.clone() for p in module.further["teacher"].parameters()]
    randomise(module.network)
    module.objective.begin(0, 0.0)
    assert module.objective.begin(3, 0.5)
    module.renew_teacher()
    after = list(module.further["teacher"].parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after, module.network.parameters(), strict=True))
    assert any(name.startswith("further.teacher") for name in module.state_dict())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (dict(kind="flow", teacher="x"), "objective.teacher is not used by objective=flow"),
        (dict(kind="dmd", flow_map=FlowMapSettings(probability=0.1)), "flow_map is not used by"),
        (dict(kind="dmd", init_from="random"), "nothing to learn from; name a trained network"),
        (dict(kind="dmd", flow=FlowSettings(guidance=2.0)), "set objective.dmd.guidance"),
        (dict(kind="mean_flow", flow=FlowSettings(weighting="beta")), "beta is not used by"),
        (dict(kind="dmd", dmd=DMDSettings(timesteps=[500.0, 900.0])), "must decrease strictly"),
        (dict(kind="dmd", dmd=DMDSettings(between=[500.0])), "the least and the greatest"),
        (dict(progressive=ProgressiveSettings(counts=[8, 5])), "5 comes after 8.*nearest: 4"),
        (dict(consistency=ConsistencySettings(parts=4, skip=4)), "less than .* nearest: 3"),
        (dict(mean_flow=MeanFlowSettings(guided_between=[900.0, 100.0])), "earliest and the"),
    ],
)
def test_few_step_settings_that_cannot_be_are_refused_in_a_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        given = ObjectiveSettings(**settings)
        check(given, "objective")
        given.check_stage(None)
    assert "\n" not in str(refused.value)


def test_a_teacher_of_another_size_is_refused_before_a_step(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    rule = dict(
        few_step("consistency"), teacher=str(Path(str(backbone.folder)) / "Wan2.2_VAE.safetensors")
    )
    config = small_training(backbone, tmp_path, tmp_path, "detail", **rule)
    with pytest.raises(ValueError, match="objective.teacher=.* is of another network: 0 of"):
        make_module(config)
    empty = tmp_path / "empty"
    empty.mkdir()
    objective = replace(config.objective, teacher=str(empty))
    with pytest.raises(ValueError, match="objective.teacher=.* has no detail network"):
        make_module(replace(config, objective=objective))


def test_a_teacher_that_is_not_there_is_refused_before_anything_is_written(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    rule = dict(few_step("consistency"), teacher=str(tmp_path / "none"))
    config = small_training(backbone, tmp_path / "run", tmp_path, "detail", **rule)
    with pytest.raises(ConfigError, match="none is neither a file nor a folder"):
        check_command(config)
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_a_file_or_a_folder(backbone: BackboneSettings, tmp_path: Path) -> None:
    rule = dict(few_step("consistency"), init_from="random", teacher=str(backbone.folder))
    module = make_module(small_training(backbone, tmp_path, tmp_path, "detail", **rule))
    assert not torch.equal(
        module.network.head.modulation, module.further["teacher"].head.modulation
    )
    weight = module.further["teacher"].blocks[0].ffn[0].weight
    assert not weight.requires_grad
    assert not any(name.startswith("further.") for name in module.state_dict())


def test_an_objective_that_asks_beyond_the_data_is_told(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_training(backbone, tmp_path, tmp_path, "detail")
    module, batch = make_module(config), fixed_batch()
    target = module.objective.target(FLOW, lambda *_: _[0], batch["latent"], draw())
    late = replace(target, step_size_B=target.timestep_B + 100)
    monkeypatch.setattr(type(module.objective), "target", lambda *_: late)
    with pytest.raises(ValueError, match="asks for a step of size .* which would end below 0"):
        module.loss(module.network, batch)


def test_an_anchor_of_few_steps_is_trained_exported_and_told_its_steps(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    config = small_training(
        backbone, tmp_path / "run", tmp_path / "data", "anchor", **few_step("flow_map")
    )
    train(replace(config, stage="anchor"))
    made = replace(backbone, folder=str(tmp_path / "run" / "export"))
    few = SamplerSettings(solver="euler", steps=4, step_sizes="raw", guidance=1.0)
    check_weights(made, few)
    with pytest.raises(ValueError, match="anchor.step_sizes=raw needs an anchor network"):
        check_weights(backbone, few)
    network = randomise(load_anchor(made))
    noise, text = torch.randn(4, 2, 4, 8, generator=draw()), torch.zeros(1, 16)
    told = Anchor(network, make_schedule(few, 5.0), 1.0)(noise, text, text)
    without = replace(few, step_sizes="none")
    untold = Anchor(network, make_schedule(without, 5.0), 1.0)(noise, text, text)
    assert torch.isfinite(told).all() and not torch.equal(told, untold)


def test_the_miniature_has_an_anchor_network_of_few_steps_beside_its_own() -> None:
    few, own = (compose("generate", words)[0].config for words in (["anchor=few4"], []))
    check_weights(few.backbone, few.anchor)
    paths = [find_weights(config.backbone, "anchor") for config in (few, own)]
    assert paths[0].parent == paths[1].parent / "few_step" and few.anchor.guidance == 1
    trained = compose("train", ["anchor=few4", "stage=anchor"])[0].config
    assert find_weights(trained.backbone, "anchor") == paths[1], "a training starts from the anchor"
    without = compose("generate", ["anchor=few4", "backbone.few_step=false"])[0].config
    with pytest.raises(ValueError, match="anchor.step_sizes=raw needs an anchor network"):
        check_weights(without.backbone, without.anchor)
