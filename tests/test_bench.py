"""The bench: the reference-shaped forward is the same arithmetic, stages meet their plan."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import BACKBONE, SIZE, randomise, write_config
from torch.utils.flop_counter import FlopCounterMode

from pixelwizard import worker
from pixelwizard.bench import pipeline, rates
from pixelwizard.bench.forwards import Forward, compare
from pixelwizard.bench.pipeline import Clock, Pipeline
from pixelwizard.bench.rates import measure_rates
from pixelwizard.bench.reference import complex_angles, reference_block, reference_forward
from pixelwizard.bench.report import SizeResult, StageResult
from pixelwizard.bench.run import bench, make_case, reached
from pixelwizard.cli.compose import compose
from pixelwizard.config.backbone import DiTSizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.tasks import BenchConfig, BenchSettings, first_steps
from pixelwizard.io import terminal
from pixelwizard.io.terminal import Remaining
from pixelwizard.models.attention.auto import KERNELS
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import Block, Rotary, WanDiT
from pixelwizard.planning.device import DeviceRates, find, stored
from pixelwizard.planning.planner import make_plan
from pixelwizard.planning.report import table

CPU = torch.device("cpu")
GRID = (31, 8, 14)
"""The anchor of 448x256 and 121 frames: 3,472 tokens."""


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("detail", [False, True])
def test_the_reference_shaped_forward_gives_the_same_velocity(detail: bool) -> None:
    torch.manual_seed(0)
    sizes = BACKBONE.dit
    network = randomise(ShortcutDiT(sizes, [1]) if detail else WanDiT(sizes))
    assert isinstance(network, WanDiT)
    latent, times = torch.randn(2, 4, 2, 8, 12), torch.tensor([900.0, 100.0])
    texts = [torch.randn(n, sizes.text_dim) for n in (3, sizes.text_len)]
    more: list[torch.Tensor] = []
    inputs = [latent, times, network.encode_text(texts)]
    if isinstance(network, ShortcutDiT):
        more = [torch.tensor([50.0, 200.0]), torch.randn(2, 4, 2, 4, 6)]
        inputs += [more[0], network.encode_anchor(more[1], (2, 4, 6))]
    network.chunk = 17
    expected = reference_forward(network, latent, times, texts, *more)
    assert relative_error(network(*inputs), expected) < 1e-5


@torch.no_grad()
@pytest.mark.slow
def test_a_full_width_block_at_the_anchors_length_equals_the_unchunked_reference() -> None:
    torch.manual_seed(0)
    sizes = DiTSizes()
    assert (sizes.dim, sizes.num_heads, sizes.ffn_dim) == (3072, 24, 14336)
    block, length = Block(sizes), GRID[0] * GRID[1] * GRID[2]
    x, context = torch.randn(1, length, sizes.dim), torch.randn(1, sizes.text_len, sizes.dim)
    modulation = 0.5 * torch.randn(1, 1, 6, sizes.dim)
    per_token = modulation.expand(1, length, 6, sizes.dim)
    head_dim = sizes.dim // sizes.num_heads
    expected = reference_block(block, x, per_token, complex_angles(GRID, head_dim, CPU), context)
    text = block.cross_attn.keys_values(context)
    actual = block(x, modulation, Rotary(GRID, head_dim, CPU), text, chunk=1024)
    assert length == 3472 and relative_error(actual, expected) < 1e-5


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BenchConfig:
    """A bench of a second, on a processor, that keeps its rates in a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(rates, "MEASURED_SECONDS", 0.01)
    return BenchConfig(
        run_dir=str(tmp_path / "run"),
        backbone=BACKBONE,
        resolution=SIZE,
        second=ResolutionSettings(width=128, height=32, frames=5),
        anchor=SamplerSettings(steps=6),
        schedule=SamplerSettings(steps=4, step_sizes="raw"),
        bench=BenchSettings(anchor_steps=3, detail_steps=2),
    )


def test_a_bench_measures_every_stage_at_both_sizes(
    config: BenchConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, format="json", attention="auto")
    assert worker.run(write_config(config)) == 0  # type: ignore[arg-type]
    found = json.loads(capfd.readouterr().out)
    assert found == json.loads((Path(config.run_dir) / "bench.json").read_text())
    assert [size["height"] for size in found["sizes"]] == [64, 32]
    for size in found["sizes"]:
        assert [stage["name"] for stage in size["stages"]] == ["text", "anchor", "detail", "decode"]
        anchor, detail = size["stages"][1:3]
        assert (anchor["steps"], anchor["of_steps"]) == (3, 6)
        assert anchor["full_seconds"] > anchor["seconds"] > 0
        assert {anchor["attention"], detail["attention"]} <= set(KERNELS["cpu"])
        for stage in size["stages"][1:]:
            assert stage["peak_gb"] == pytest.approx(stage["planned_gb"], rel=0.25), stage["name"]
        for forward in size["forwards"]:
            assert forward["difference"] < 1e-4 and forward["reference_seconds"] > 0
        assert size["forwards"][1]["peak_gb"] < size["forwards"][1]["reference_gb"]
    report = (Path(config.run_dir) / "bench.md").read_text()
    assert "| decode " in report and " for the anchor, " in report


def test_a_bench_that_is_stopped_keeps_what_it_has_found(
    config: BenchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(pipeline: Pipeline) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "decode", stopped)
    write_config(config)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        bench(config)
    folder = Path(config.run_dir)
    [size] = json.loads((folder / "bench.json").read_text())["sizes"]
    assert [stage["name"] for stage in size["stages"]] == ["text", "anchor", "detail"]
    report = (folder / "bench.md").read_text()
    assert "| detail " in report and "A whole video" not in report


def test_the_rates_of_this_machine_are_those_of_the_next_plan(config: BenchConfig) -> None:
    assert find("auto").name == "h200"
    found = measure_rates(CPU, "this one")
    assert all(rate > 0 for rate in (found.matmul, found.attention, found.conv, found.memory_tbs))
    rates.keep(found)
    assert find("auto") == found and find("h100").name == "h100"
    stored().write_text("{}")
    assert find("auto").name == "h200"


def test_the_full_bench_is_refused_without_a_gpu(
    config: BenchConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    full = compose("bench", ["bench=full", f"run_dir={config.run_dir}"])[0].config
    assert [whole.resolution.width for whole in full.wholes()] == [2560, 3840]
    assert full.backbone.name == "wan2_2_ti2v_5b" and full.anchor.steps == 50
    assert worker.run(write_config(full)) == 2
    sentence = capfd.readouterr().err
    assert "needs a GPU" in sentence and sentence.count("\n") == 1


def test_a_reference_that_does_not_fit_is_traced_instead(config: BenchConfig) -> None:
    network = WanDiT(BACKBONE.dit).requires_grad_(False)
    noise = torch.randn(4, *SIZE.geometry.latent_grid)
    forward = Forward(network, noise, torch.randn(8, BACKBONE.dit.text_dim))
    found = compare("anchor", forward, budget_gb=0.5)
    assert found.reference_seconds is None and found.note == "needs 1 GB"
    assert found.reference_gb > found.peak_gb > 0
    measured = compare("anchor", forward, budget_gb=None)
    assert measured.reference_gb == pytest.approx(found.reference_gb, rel=0.1)


def test_the_first_steps_of_a_sampler() -> None:
    sampler = SamplerSettings(steps=4, timesteps=[999, 900, 500, 100], guided_steps=[0, 3])
    short = first_steps(sampler, 2)
    assert (short.steps, short.timesteps, short.guided_steps) == (2, [999, 900], [0])
    assert first_steps(SamplerSettings(steps=4), 9).steps == 4


def test_a_step_is_timed_without_the_first_one() -> None:
    assert Clock(10.0, [15.0, 16.0, 17.0]).step_seconds(3) == 1.0
    assert Clock(10.0, [15.0]).step_seconds(1) == Clock(10.0, [15.0]).seconds == 5.0


def test_a_decode_counted_from_three_latent_frames_is_that_of_the_whole_clip(
    config: BenchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that tells multiplications instead of seconds."""
    clip = replace(config, resolution=replace(SIZE, frames=25))
    case, found = make_case(clip, next(iter(clip.wholes()))), {}
    for traced in (3, 7):
        monkeypatch.setattr(pipeline, "TRACED", traced)
        with FlopCounterMode(display=False) as clock:
            monkeypatch.setattr(pipeline, "now", lambda device: float(clock.get_total_flops()))
            found[traced] = Pipeline(case, CPU, lambda share: None).decode()
    assert (found[3].steps, found[3].of_steps, found[7].steps) == (3, 7, None)
    assert found[3].seconds < 0.4 * found[7].seconds
    assert found[3].full_seconds == pytest.approx(found[7].full_seconds, rel=0.02)


def test_a_plan_expects_the_share_of_the_rates_that_stages_reached(config: BenchConfig) -> None:
    def stage(name: str, seconds: float) -> StageResult:
        return StageResult(name, "resident", 1, None, None, seconds, 1.0, 1.0, 1.0, seconds, 1.0)

    stages = (stage("anchor", 2.0), stage("decode", 4.0))
    shares = reached([SizeResult(64, 64, 5, stages, ())])
    assert shares == {"anchor": 0.5, "decode": 0.25}
    rates.keep(DeviceRates("this one", 1, 1, 1, 1, 1, reached=shares))
    plan = make_plan(next(iter(config.wholes())))
    for planned in plan.stages:
        share = shares.get(planned.name, 1.0)
        assert planned.limit_seconds == pytest.approx(share * planned.seconds, abs=2e-3)
    assert "limit s" in table(plan) and "expected s" in table(plan)


def test_the_time_left_follows_the_parts_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = [100.0], io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    remaining = Remaining(out)
    shown: Callable[[], str] = lambda: out.getvalue().split("\r\x1b[K")[-1]  # noqa: E731
    remaining.enter("rates")
    assert "ETA" not in shown()
    remaining.expect({"one": 1.0, "two": 3.0})
    remaining.enter("one")
    assert shown() == "one  0 %  ETA 0:04"
    clock[0] += 10
    remaining.enter("two")
    assert shown() == "two  0 %  ETA 0:30"
    clock[0] += 15
    remaining.share(0.5)
    assert shown() == "two  50 %  ETA 0:15"
