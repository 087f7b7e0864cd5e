"""Steps that are skipped: which, what stands in for them, and that runs continue to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SIZE, small_config, write_backbone, write_config
from torch import Tensor

from pixelwizard import worker
from pixelwizard.cli.main import main
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.schema import identity
from pixelwizard.config.targets import Part, Target
from pixelwizard.diffusion.sampling import SolverState, initial_noise, sample
from pixelwizard.diffusion.schedules import (
    SOLVER,
    Step,
    make_schedule,
    schedule_table,
    stage_schedules,
)
from pixelwizard.diffusion.skip.base import Skip
from pixelwizard.models.weights import load_detail
from pixelwizard.stages.latents import Detail

PLAIN = SamplerSettings(solver="euler", steps=9, guidance=1.0)
PATTERN = "111101001"
NOISE = initial_noise((1, 4, 2, 3, 3), seed=0)
RULES: dict[str, Part] = {
    "mask": Target("mask", {"pattern": PATTERN}),
    "mean": Target("mean", {"pattern": PATTERN, "over": 2}),
    "taylor": "taylor",
    "first_block": Target("first_block", {"threshold": 0.3}),
}


class Rising(Skip):
    """A rule of the user's: skips while the latent has not changed by a tenth."""

    def planned(self, steps: int) -> list[bool | None]:
        return [True, *[None] * (steps - 1)]

    def asks(self, moment: Any, kept: tuple[Tensor, ...]) -> bool:
        return bool((moment.latent - kept[1]).abs().mean() > 0.1)

    def remember(self, moment: Any, velocity: Tensor, kept: Any) -> tuple[Tensor, ...]:
        return velocity, moment.latent


class Headless(Rising):
    def planned(self, steps: int) -> list[bool | None]:
        return [None] * steps


def run(
    velocity: Callable[[float], float], settings: SamplerSettings, shift: float = 1.0
) -> tuple[float, list[float], list[SolverState]]:
    """Where a velocity of sigma alone ends, the sigmas where it was asked, and the states."""
    asked: list[float] = []
    states: list[SolverState] = []

    def ask(x: Tensor, step: Step) -> Tensor:
        asked.append(step.sigma)
        return torch.full_like(x, velocity(step.sigma))

    schedule = make_schedule(settings, shift)
    end = sample(ask, torch.zeros(1, 1), schedule, on_step=states.append)
    return float(end), asked, states


def test_a_mask_asks_where_it_has_a_one_and_reuses_the_last_velocity() -> None:
    settings = replace(PLAIN, skip=RULES["mask"])
    schedule = make_schedule(settings, 1.0)
    sigmas = schedule.sigmas
    end, asked, states = run(lambda sigma: sigma, settings)
    assert asked == [sigmas[i] for i in (0, 1, 2, 3, 5, 8)]
    assert states[-1].skipped == (4, 6, 7) and schedule.nfe == 6
    used = [sigmas[i] for i in (0, 1, 2, 3, 3, 5, 5, 5, 8)]
    steps = (b - a for a, b in zip(sigmas, sigmas[1:], strict=False))
    assert end == pytest.approx(sum(h * v for h, v in zip(steps, used, strict=True)), abs=1e-6)


def test_taylor_skips_a_velocity_on_a_line_without_error() -> None:
    def line(sigma: float) -> float:
        return 3 * sigma - 1

    whole, every, _ = run(line, PLAIN, shift=5.0)
    skipping, asked, states = run(line, replace(PLAIN, skip="taylor"), shift=5.0)
    assert skipping == pytest.approx(whole, abs=1e-5)
    assert (len(every), len(asked), states[-1].skipped) == (9, 6, (3, 5, 7))


def test_mean_adds_half_the_slope_over_the_step() -> None:
    settings = replace(PLAIN, steps=3, skip=Target("mean", {"pattern": "110", "over": 2}))
    a, b, c, d = make_schedule(settings, 1.0).sigmas
    end, asked, _ = run(lambda sigma: sigma, settings)
    mean = ((b - a) * a + (c - b) * b) / (c - a)
    half_slope = (mean - a) / (c - a)
    assert asked == [a, b]
    expected = (b - a) * a + (c - b) * b + (d - c) * (b + half_slope * (d - c))
    assert end == pytest.approx(expected, abs=1e-6)


def curved(x: Tensor, step: Step) -> Tensor:
    return torch.tanh(x.roll(1, dims=1) + 2 * step.sigma)


@pytest.mark.parametrize("solver", SOLVER.names)
@pytest.mark.parametrize("rule", [*RULES, "the user's"])
def test_a_run_that_skips_continues_to_the_same_bits(solver: str, rule: str) -> None:
    skip = RULES.get(rule, Target(f"{__name__}.Rising"))
    schedule = make_schedule(replace(PLAIN, solver=solver, skip=skip), 5.0)
    states: list[SolverState] = []
    whole = sample(curved, NOISE, schedule, probe=curved, on_step=states.append)
    assert 0 < len(states[-1].skipped) < 8
    for state in states:
        saved = {name: tensor.clone() for name, tensor in state.to_tensors().items()}
        again = SolverState.from_tensors(saved)
        assert torch.equal(sample(curved, NOISE, schedule, probe=curved, state=again), whole)
        assert again.skipped == state.skipped


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SamplerSettings], Detail]:
    backbone: BackboneSettings = write_backbone(tmp_path_factory.mktemp("weights"))
    return lambda sampler: Detail(load_detail(backbone), make_schedule(sampler, 5.0), 3.0)


@pytest.mark.parametrize(("threshold", "skipped"), [(0.0, 0), (1e9, 7)])
def test_the_first_block_decides_which_steps_run_the_others(
    stage: Callable[[SamplerSettings], Detail], threshold: float, skipped: int
) -> None:
    rule = Target("first_block", {"threshold": threshold})
    sampler = replace(PLAIN, skip=rule, guidance=3.0, guided_steps=[0, 8], step_sizes="raw")
    detail = stage(sampler)
    calls, states = [], []
    detail.network.head.register_forward_pre_hook(lambda _, inputs: calls.extend(inputs[0]))
    low = initial_noise((4, *SIZE.anchor_geometry.latent_grid), 1)
    noise = initial_noise((4, *SIZE.geometry.latent_grid), 2)
    texts = [initial_noise((3, 16), seed) for seed in (3, 4)]
    detail(noise, low, *texts, on_step=states.append)
    assert len(states[-1].skipped) == skipped
    assert len(calls) == 4 + 7 - skipped and not detail.schedule.is_fixed


def test_the_first_change_is_that_of_the_first_block(
    stage: Callable[[SamplerSettings], Detail],
) -> None:
    network = stage(PLAIN).network
    noise = initial_noise((1, 4, *SIZE.geometry.latent_grid), 2)
    seen: list[Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    network.blocks[0].register_forward_hook(lambda _, inputs, out: seen.append(out.clone()))
    text = network.encode_text([initial_noise((3, 16), 5)])
    change = network.first_change(noise, noise.new_tensor([500.0]), text)
    assert torch.equal(change, seen[1] - seen[0])


def test_only_a_rule_that_skips_is_part_of_a_key() -> None:
    assert "skip" not in identity(PLAIN)
    assert identity(replace(PLAIN, skip=RULES["mask"]))["skip"] == {
        "name": "mask",
        "pattern": PATTERN,
    }


def test_tables_show_what_is_skipped_or_may_be() -> None:
    stages = stage_schedules(
        replace(PLAIN, skip="first_block", guidance=5.0), replace(PLAIN, skip=RULES["mask"]), SIZE
    )
    anchor, detail = schedule_table(stages).split("\n\n")
    assert anchor.startswith("anchor: euler, 9 steps, skip first_block, at most 18 NFE\n")
    assert [line.split()[-1] for line in anchor.splitlines()[2:4]] == ["2", "2"]
    assert anchor.splitlines()[3].endswith("0 or 2") and anchor.splitlines()[-1].endswith("   2")
    assert detail.startswith("detail: euler, 9 steps, skip mask (3 skipped), 6 NFE\n")
    assert [i for i, s in enumerate(detail.splitlines()[2:]) if s.endswith("skipped")] == [4, 6, 7]
    assert [step["computed"] for step in stages[1].to_json()["steps"]] == [
        mark == "1" for mark in PATTERN
    ]


@pytest.mark.parametrize(
    ("skip", "sentence"),
    [
        (Target("mask", {"pattern": "1101"}), "for each of the 9 steps, .* nearest: 110111111"),
        (Target("mask", {"pattern": "011111111"}), "begin with 1; nearest: 111111111"),
        (Target("mask", {"pattern": "1x1111111"}), "nearest: 111111111"),
        (Target("mask"), r"\.pattern is missing"),
        (Target("taylor", {"every": 0}), ": every=0 must be at least 1"),
        (Target("taylor", {"first": "x"}), ": first=x must be an integer"),
        (Target("first_block", {"threshold": -1}), "threshold=-1.0 must be at least 0"),
        (Target("mean", {"pattern": PATTERN, "over": 0}), "over=0 must be at least 1"),
        (Target(f"{__name__}.Headless"), r"Headless.planned\(9\) must say of 9 steps"),
        ("masc", "did you mean mask?"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_in_one_sentence(skip: Part, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^schedule\.skip[^\n]*{sentence}"):
        make_schedule(replace(PLAIN, skip=skip), 5.0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["schedule.skip={name: mask, pattern: 1101}"], "for each of the 8 steps"),
        (["schedule.skip=first_block", "parallel=fsdp"], "use parallel.shard=sequence or skip"),
    ],
)
def test_generate_refuses_a_rule_before_anything_is_written(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["schedule=euler8", "run_dir=run", *words]) == 2
    assert sentence in capsys.readouterr().err and not Path("run").exists()


def test_the_record_of_a_video_has_the_steps_that_were_computed(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "weights")
    rule = Target("first_block", {"threshold": 1e9})
    config = small_config(backbone, tmp_path, prompt=["a red circle"])
    config = replace(config, schedule=replace(PLAIN, steps=4, skip=rule))
    assert worker.run(write_config(config)) == 0
    (path,) = (Path(config.run_dir) / "videos").glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [s["computed"] for s in record["detail"]["steps"]] == [True, False, False, True]
    assert record["detail"]["nfe"] == 2 and record["anchor"]["nfe"] == 2 * config.anchor.steps


def test_the_plan_counts_only_what_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["plan", "backbone=tiny", "resolution=demo", "schedule=euler8", "format=json"]
    found = []
    for skip in ("none", "{name: mask, pattern: '10101010'}", "first_block"):
        assert main([*words, f"schedule.skip={skip}", "plot=steps.png"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    whole, half, at_most = (plan["schedules"]["detail"]["nfe"] for plan in found)
    assert (whole, half, at_most) == (8, 4, 8)
    whole, half, at_most = (plan["stages"][2]["tflop"] for plan in found)
    assert half < 0.6 * whole == 0.6 * at_most
