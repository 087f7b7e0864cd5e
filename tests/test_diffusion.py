"""Schedules, solvers, guidance and the flow path, in cases whose answer is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target
from pixelwizard.diffusion.sampling import (
    SolverState,
    add_noise,
    guided,
    initial_noise,
    sample,
    velocity,
)
from pixelwizard.diffusion.schedules import SOLVER, Step, grid_version, make_schedule, step_sizes
from pixelwizard.diffusion.skip.base import Skip
from pixelwizard.diffusion.solvers.base import Solver

UNIPC4 = SamplerSettings(solver="unipc", steps=4, guidance=1.0)


def curved(x: Tensor, step: Step) -> Tensor:
    """A velocity that depends on x and on the time."""
    return torch.tanh(x.roll(1, dims=1) + 2 * step.sigma)


@pytest.mark.parametrize(
    ("steps", "shift", "timesteps", "raw", "snapped"),
    [
        (4, 5.5, [999, 942, 845, 646], [56, 96, 198, 646], [62, 100, 200, 600]),
        (4, 5.8, [999, 945, 852, 658], [54, 92, 194, 658], [50, 86, 200, 700]),
        (
            5,
            5.8,
            [999, 958, 896, 794, 591],
            [40, 62, 102, 202, 590],
            [42, 62, 100, 200, 600],
        ),
    ],
    ids=["2k-4", "4k-4", "4k-5"],
)
@pytest.mark.parametrize("solver", ["unipc", "euler"])
def test_published_schedules(
    solver: str,
    steps: int,
    shift: float,
    timesteps: list[int],
    raw: list[int],
    snapped: list[int],
) -> None:
    for mode, sizes in (("raw", raw), ("snapped", snapped), ("none", [None] * steps)):
        settings = SamplerSettings(solver=solver, steps=steps, step_sizes=mode)
        schedule = make_schedule(settings, shift)
        assert [step.timestep for step in schedule.steps] == timesteps
        assert [step.dt for step in schedule.steps] == sizes


def official_timesteps(solver: str, steps: int, shift: float) -> list[int]:
    """Those of Wan2.2's ``fm_solvers.py`` (dpmpp) and ``fm_solvers_unipc.py``."""
    if solver == "dpmpp":
        first, last = 1.0, 0.0
    else:
        alphas = np.linspace(1, 1 / 1000, 1000)[::-1].copy()
        sigmas = torch.from_numpy(1.0 - alphas).to(torch.float32)
        first, last = sigmas[0].item(), sigmas[-1].item()
    even = np.linspace(first, last, steps + 1)[:-1]
    shifted = shift * even / (1 + (shift - 1) * even)
    return torch.from_numpy(shifted * 1000).to(torch.int64).tolist()


@pytest.mark.parametrize("solver", SOLVER.names)
@pytest.mark.parametrize("shift", [1, 2, 3, 4, 5, 5.5, 5.8, 6, 7, 8, 3.17])
def test_timesteps_equal_the_official_ones_for_every_number_of_steps(
    solver: str, shift: float
) -> None:
    for steps in range(1, 201):
        schedule = make_schedule(replace(UNIPC4, solver=solver, steps=steps), shift)
        found = [step.timestep for step in schedule.steps]
        assert found == official_timesteps(solver, steps, shift), steps


def test_only_grids_that_had_a_wrong_timestep_carry_a_version() -> None:
    def versions(solver: str, counts: Sequence[int]) -> list[int]:
        return [grid_version(replace(UNIPC4, solver=solver, steps=n), 5.0) for n in counts]

    assert versions("dpmpp", [6, 12, 18, 24, 28, 36, 42, 48]) == [2] * 8
    assert versions("dpmpp", [4, 8, 20, 50]) == [1] * 4
    assert versions("unipc", range(1, 101)) == [1] * 100


def test_step_sizes_are_even_and_at_least_two() -> None:
    assert step_sizes([999, 998, 500.4, 1]) == [2, 498, 498, 2]


def test_explicit_timesteps_replace_the_grid() -> None:
    settings = replace(UNIPC4, timesteps=[1000, 750.0, 250], step_sizes="raw")
    schedule = make_schedule(settings, shift=5.0)
    assert schedule.sigmas == (1.0, 0.75, 0.25, 0.0)
    assert [step.timestep for step in schedule.steps] == [1000.0, 750.0, 250.0]
    assert [step.dt for step in schedule.steps] == [250, 500, 250]


def test_shift_of_the_settings_wins_over_the_resolution() -> None:
    assert make_schedule(replace(UNIPC4, shift=5.8), 5.5) == make_schedule(UNIPC4, 5.8)


def test_guided_steps_and_function_evaluations() -> None:
    everywhere = make_schedule(replace(UNIPC4, guidance=5.0), 5.0)
    some = make_schedule(replace(UNIPC4, guidance=5.0, guided_steps=[0, 2]), 5.0)
    assert [step.guided for step in some.steps] == [True, False, True, False]
    assert (everywhere.nfe, some.nfe, make_schedule(UNIPC4, 5.0).nfe) == (8, 6, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"timesteps": []},
        {"timesteps": [900.0, 900.0]},
        {"timesteps": [500.0, 700.0]},
        {"timesteps": [1001.0, 500.0]},
        {"timesteps": [500.0, 0.0]},
        {"timesteps": [500.0, -1.0]},
        {"guided_steps": [4]},
        {"guided_steps": [-1]},
    ],
)
def test_impossible_schedules_are_refused_in_one_sentence(change: dict) -> None:
    with pytest.raises(ValueError, match=r"^schedule\.\w+=[^\n]+$"):
        make_schedule(replace(UNIPC4, **change), 5.0)


def test_schedules_need_no_torch() -> None:
    code = "import sys, pixelwizard.diffusion.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_path_joins_data_and_noise_with_constant_velocity() -> None:
    x0, noise = torch.randn(2, 3, 1, 2, 2), torch.randn(2, 3, 1, 2, 2)
    sigma = torch.tensor([0.25, 0.75])
    x, v = add_noise(x0, noise, sigma), velocity(x0, noise)
    assert torch.equal(add_noise(x0, noise, 0.0), x0)
    assert torch.equal(add_noise(x0, noise, 1.0), noise)
    assert torch.allclose(x - sigma.view(-1, 1, 1, 1, 1) * v, x0, atol=1e-6)
    assert torch.allclose(x[1], 0.25 * x0[1] + 0.75 * noise[1])


def test_noise_belongs_to_its_seed() -> None:
    torch.manual_seed(0)
    first = initial_noise((2, 3), seed=7)
    torch.manual_seed(1)
    assert torch.equal(first, initial_noise((2, 3), seed=7))
    assert not torch.equal(first, initial_noise((2, 3), seed=8))


@pytest.mark.parametrize("solver", SOLVER.names)
@pytest.mark.parametrize("start", [1000.0, 999.0])
def test_every_solver_is_exact_on_a_straight_flow(solver: str, start: float) -> None:
    x0, noise = torch.randn(1, 4, 2, 2, 2), torch.randn(1, 4, 2, 2, 2)
    settings = replace(UNIPC4, solver=solver, timesteps=[start, 800.0, 420.0, 60.0])
    x = add_noise(x0, noise, start / 1000)
    result = sample(lambda x, step: noise - x0, x, make_schedule(settings, 5.0))
    assert torch.allclose(result, x0, atol=1e-5)


def test_solvers_converge_and_the_second_order_ones_faster() -> None:
    """Data N(2, 1/4) makes the flow known: noise n ends at 2 + n / 2."""
    mean, deviation = 2.0, 0.5

    def flow(x: Tensor, step: Step) -> Tensor:
        spread = ((1 - step.sigma) * deviation) ** 2 + step.sigma**2
        deviate = (x - (1 - step.sigma) * mean) / spread
        return -mean + deviate * (step.sigma - (1 - step.sigma) * deviation**2)

    noise = torch.linspace(-2, 2, 9)[None, :, None]

    def error(solver: str, steps: int) -> float:
        settings = replace(UNIPC4, solver=solver, steps=steps)
        result = sample(flow, noise, make_schedule(settings, 1.0))
        return (result - mean - deviation * noise).abs().max().item()

    for solver in SOLVER.names:
        assert error(solver, 40) < 0.55 * error(solver, 20)
    assert max(error("unipc", 20), error("dpmpp", 20)) < error("euler", 20) / 4


@pytest.mark.parametrize("solver", SOLVER.names)
def test_resuming_from_any_step_gives_the_same_bits(solver: str) -> None:
    schedule = make_schedule(replace(UNIPC4, solver=solver, steps=6), 5.5)
    noise = initial_noise((1, 4, 2, 3, 3), seed=0)
    states: list[SolverState] = []
    whole = sample(curved, noise, schedule, on_step=states.append)
    assert [state.step for state in states] == [1, 2, 3, 4, 5, 6]
    for state in states:
        saved = {name: tensor.clone() for name, tensor in state.to_tensors().items()}
        resumed = sample(curved, noise, schedule, state=SolverState.from_tensors(saved))
        assert torch.equal(resumed, whole)


def test_guidance_runs_the_second_pass_on_guided_steps_only() -> None:
    calls = []

    def unconditional(x: Tensor, step: Step) -> Tensor:
        calls.append(step.sigma)
        return torch.ones_like(x)

    velocity = guided(lambda x, step: 3 * torch.ones_like(x), unconditional, scale=5.0)
    x = torch.zeros(1, 2)
    assert torch.equal(velocity(x, Step(0.9, 900, None, guided=True)), torch.full((1, 2), 11.0))
    assert torch.equal(velocity(x, Step(0.5, 500, None, guided=False)), torch.full((1, 2), 3.0))
    assert calls == [0.9]


class Heun(Solver):
    """Second order by asking at both ends of every step but the last."""

    def evaluations(self, index: int, steps: int) -> int:
        return 2 if index < steps - 1 else 1

    def step(self, sigmas, index, x, velocity, history):  # type: ignore[no-untyped-def]
        s, t = sigmas[index], sigmas[index + 1]
        v = velocity(x, s)
        ahead = x + (t - s) * v
        if t == 0:
            return ahead, ()
        return x + (t - s) * (v + velocity(ahead, t)) / 2, ()


class Miscounting(Heun):
    """Says that it asks once."""

    def evaluations(self, index: int, steps: int) -> int:
        return 1


def test_a_solver_may_ask_twice_a_step_and_every_evaluation_counts() -> None:
    settings = replace(UNIPC4, solver=Target(f"{__name__}.Heun"), guidance=5.0, guided_steps=[0])
    schedule = make_schedule(replace(settings, step_sizes="raw"), 5.5)
    assert [step.nfe for step in schedule.steps] == [4, 2, 2, 1]
    asked = []

    def velocity(x: Tensor, step: Step) -> Tensor:
        asked.append((round(step.timestep), step.dt, step.guided))
        return curved(x, step)

    sample(velocity, initial_noise((1, 4, 2, 3, 3), seed=0), schedule)
    assert asked == [
        *[(999, 56, True), (943, 56, True)],
        *[(942, 96, False), (846, 96, False)],
        *[(845, 198, False), (647, 198, False)],
        (646, 646, False),
    ]


def test_a_solver_that_miscounts_its_evaluations_is_stopped() -> None:
    schedule = make_schedule(replace(UNIPC4, solver=Target(f"{__name__}.Miscounting")), 5.0)
    with pytest.raises(ValueError, match=r"Miscounting asked the network 2 times in step 0;"):
        sample(curved, initial_noise((1, 4, 2, 3, 3), seed=0), schedule)


class Odd(Solver):
    """Returns what ``made`` says of the latent, or counts as it says."""

    def __init__(self, made: str = "x, ()", count: str = "1") -> None:
        self.made, self.count = made, count

    def evaluations(self, index: int, steps: int) -> int:
        count: int = eval(self.count)
        return count

    def step(self, sigmas, index, x, velocity, history):  # type: ignore[no-untyped-def]
        velocity(x, sigmas[index])
        return eval(self.made)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ("x", r"Odd.step\(\) of step 0 must return the next latent and a tuple of tensors"),
        ("(3, ())", "must return the next latent and a tuple of tensors"),
        ("(x, (3.0,))", "must return the next latent and a tuple of tensors"),
        ("(x[:, :1], ())", r"a tensor of \[1, 1, 2, 3, 3\]; it must be \[1, 4, 2, 3, 3\]"),
    ],
)
def test_a_solver_that_returns_no_latent_is_stopped_in_one_sentence(
    made: str, sentence: str
) -> None:
    solver = Target(f"{__name__}.Odd", {"made": made})
    schedule = make_schedule(replace(UNIPC4, solver=solver), 5.0)
    with pytest.raises(ValueError, match=sentence):
        sample(curved, initial_noise((1, 4, 2, 3, 3), seed=0), schedule)


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        ("'two'", r"schedule.solver: Odd.evaluations\(\) of step 0 is 'two'; it must be a whole"),
        ("{}[1]", r"schedule.solver: Odd.evaluations\(\) failed \(KeyError: 1\)"),
    ],
)
def test_a_solver_that_cannot_count_is_refused_in_one_sentence(count: str, sentence: str) -> None:
    solver = Target(f"{__name__}.Odd", {"count": count})
    with pytest.raises(ConfigError, match=sentence):
        make_schedule(replace(UNIPC4, solver=solver), 5.0)


class Narrow(Skip):
    """Skips all steps but the first, with a velocity of one channel."""

    def planned(self, steps: int) -> list[bool | None]:
        return [True] + [False] * (steps - 1)

    def velocity(self, moment: Any, sigma: float, kept: tuple[Tensor, ...]) -> Tensor:
        return kept[0][:, :1]


def test_a_skip_rule_with_a_velocity_of_another_shape_is_stopped() -> None:
    schedule = make_schedule(replace(UNIPC4, skip=Target(f"{__name__}.Narrow")), 5.0)
    with pytest.raises(ValueError, match=r"Narrow.velocity\(\) of step 1 returned a tensor of"):
        sample(curved, initial_noise((1, 4, 2, 3, 3), seed=0), schedule)
