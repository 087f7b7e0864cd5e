"""The bench: the reference-shaped forward is the same arithmetic, stages meet their plan."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from small import BACKBONE, SIZE, randomise, write_config
from torch.utils.flop_counter import FlopCounterMode

from pixelwizard import worker
from pixelwizard.bench import pipeline, rates
from pixelwizard.bench.few_blocks import FewBlocks, few_blocks, too_long
from pixelwizard.bench.forwards import (
    Forward,
    compare,
    complex_angles,
    reference_block,
    reference_forward,
)
from pixelwizard.bench.pipeline import Clock, Pipeline
from pixelwizard.bench.rates import measure_rates
from pixelwizard.bench.report import SizeResult, StageResult
from pixelwizard.bench.run import bench, make_case, reached
from pixelwizard.cli.compose import compose
from pixelwizard.config.backbone import DiTSizes
from pixelwizard.config.generate import MemorySettings, SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.targets import Target
from pixelwizard.config.tasks import BenchConfig, BenchSettings
from pixelwizard.io import terminal
from pixelwizard.io.terminal import Remaining
from pixelwizard.models.attention.auto import KERNELS
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import Block, WanDiT
from pixelwizard.models.wan.kernels import Rotary
from pixelwizard.planning.device import DeviceRates, Trace, find, stored
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
    rotary = Rotary(GRID, head_dim, CPU, slice(0, length))
    actual = block(x, modulation, rotary, text, chunk=1024)
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


def test_a_bench_that_would_take_too_long_counts_its_stages_from_few_blocks(
    config: BenchConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    deep = replace(BACKBONE, dit=replace(BACKBONE.dit, num_layers=8), detail_layers=8)
    late = replace(config.bench, minutes=0.0)
    config = replace(config, backbone=deep, bench=late, second=None, format="json")
    write_config(config)  # type: ignore[arg-type]
    assert bench(config) == 0
    [size] = json.loads(capfd.readouterr().out)["sizes"]
    assert [s["blocks"] for s in size["stages"]] == [None, 2, 2, None]
    assert [f["blocks"] for f in size["forwards"]] == [2, 2]
    assert all(f["difference"] is None and f["reference_seconds"] > 0 for f in size["forwards"])
    for stage in size["stages"][1:]:
        assert stage["peak_gb"] == pytest.approx(stage["planned_gb"], rel=0.25), stage["name"]
    report = (Path(config.run_dir) / "bench.md").read_text()
    assert "3 of 6 steps, 2 of 8 blocks" in report and "| detail, 2 of 8 blocks " in report


def test_the_rates_of_this_machine_are_those_of_the_next_plan(config: BenchConfig) -> None:
    assert find("auto").name == "h200"
    found = measure_rates(CPU, "this one")
    rates_of_kinds = (found.matmul, found.attention, found.conv, found.memory_tbs)
    assert all(rate > 0 for rate in (*rates_of_kinds, found.loading_gbs)) and found.cores > 0
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
    short = sampler.first(2)
    assert (short.steps, short.timesteps, short.guided_steps) == (2, [999, 900], [0])
    assert SamplerSettings(steps=4).first(9).steps == 4


def test_a_forward_is_timed_without_the_first_one_and_without_what_comes_before_it() -> None:
    assert Clock(10.0, [15.0, 16.0, 18.0], [12.0, 15.0, 16.0]).forward_seconds == 1.5
    assert Clock(10.0, [15.0], [12.0]).forward_seconds == 3.0
    assert Clock(10.0, [15.0], [12.0]).seconds == 5.0


@pytest.mark.parametrize(
    ("kinds", "least", "found"),
    [
        ([None] * 30, 1, FewBlocks(1, 1, 30)),
        ([None] * 30, 2, FewBlocks(2, 1, 30)),
        ([0, 1] * 15, 1, FewBlocks(2, 2, 30)),
        ([2, *[0, 1] * 14, 0], 1, FewBlocks(2, 2, 30)),
        ([0] * 29 + [1], 1, None),
        ([None] * 3, 1, None),
    ],
)
def test_the_fewest_blocks_that_tell_the_cost_of_all(
    kinds: list[int], least: int, found: FewBlocks | None
) -> None:
    assert few_blocks(kinds, least) == found
    assert found is None or found.whole(*(3.0 + n for n in found.runs)) == 33.0


def test_the_longest_parts_are_shortened_until_all_are_done_in_time() -> None:
    parts, shorter = {"a": 10.0, "b": 60.0, "c": 100.0, "decode": 200.0}, {"a": 1.0, "b": 6.0}
    shorter["c"] = 10.0
    for seconds, chosen in ((370, set()), (369, {"c"}), (280, {"c"}), (279, {"c", "b"})):
        assert too_long(parts, shorter, seconds) == chosen
    assert too_long(parts, shorter, -1) == {"a", "b", "c"}


@pytest.mark.parametrize("what", ["flops", "moved"])
@pytest.mark.parametrize("mode", ["resident", "stream"])
def test_stages_counted_from_few_blocks_and_one_step_are_the_whole_ones(
    config: BenchConfig,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    mode: Literal["resident", "stream"],
) -> None:
    """On a clock that tells operations, or bytes moved, instead of seconds."""
    sizes = replace(BACKBONE.dit, num_layers=9)
    backbone = replace(BACKBONE, dit=sizes, detail_layers=10, control_blocks=[1])
    few_steps = BenchSettings(anchor_steps=1, detail_steps=1)
    window = Target("window", {"size": [1, 0, 0], "dense_layers": [0]})
    config = replace(config, backbone=backbone, attention=window, second=None)
    config = replace(config, memory=MemorySettings(mode, chunk=16), bench=few_steps)
    whole_config = replace(config, bench=BenchSettings(anchor_steps=6, detail_steps=4))
    runs = {"resident": (3, 4), "stream": (5, 4)}[mode]
    for stage, blocks in (("anchor", (runs[0], 9)), ("detail", (runs[1], 10))):
        found = []
        for settings in (config, whole_config):
            case = make_case(settings, next(iter(settings.wholes())))
            pipe = Pipeline(case, CPU, lambda share: None)
            pipe.shortened = settings is config
            with Trace(computing=True) as counted:
                monkeypatch.setattr(
                    pipeline, "now", lambda device, t=counted: float(count(t, what))
                )
                found.append(getattr(pipe, stage)())
        one, whole = found
        assert (one.blocks, one.of_blocks) == blocks and whole.blocks is None
        assert whole.full_seconds == whole.seconds
        # after its first step a solver also keeps and reads what earlier ones predicted: 43 KB
        near = 0 if what == "flops" else 52_000
        assert one.full_seconds == pytest.approx(whole.full_seconds, rel=0, abs=near)
        assert one.peak_gb == pytest.approx(whole.peak_gb, rel=3e-3)


def count(trace: Trace, what: str) -> int:
    return sum(trace.flops.values()) if what == "flops" else trace.moved


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
