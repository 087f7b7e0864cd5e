"""The plan: predictions by tracing, at full size, and what is chosen by them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import BACKBONE, SIZE
from torch import Tensor

from pixelwizard.bench.rates import keep
from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.config.generate import MemorySettings, PlanConfig, SamplerSettings
from pixelwizard.config.geometry import WHOLE, Tiles
from pixelwizard.config.output import DecodeSettings
from pixelwizard.config.parallel import Mesh
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.io.terminal import STAGES
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.kernels import PLAIN, rotate
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.planning import transformer_cost
from pixelwizard.planning.decode_cost import choose_tiles, cost_of_decode
from pixelwizard.planning.device import FIRST_USE, META, DeviceRates, Trace
from pixelwizard.planning.planner import CHUNKS, CONTEXT, make_plan
from pixelwizard.planning.report import Plan, StagePlan, details, table
from pixelwizard.planning.transformer_cost import Sampling, cost_of_sampling
from pixelwizard.stages.decode import Decode, allowed, surely_whole
from pixelwizard.stages.latents import Detail

SMALL = PlanConfig("none", backbone=BACKBONE, resolution=SIZE)


FULL_4K = ("backbone=wan2_2_ti2v_5b", "resolution=4k")


def plan(*overrides: str, only: Collection[str] = STAGES) -> Plan:
    return make_plan(compose("plan", overrides)[0].config, only=only)


def decode(*overrides: str) -> StagePlan:
    return plan(*FULL_4K, *overrides, only=["decode"]).by_name["decode"]


@pytest.mark.parametrize(
    ("overrides", "limits"),
    [
        (["resolution=2k", "memory=resident"], {"detail": 15.5, "anchor": 12.0}),
        (["resolution=4k", "memory=resident"], {"detail": 20.5, "anchor": 12.0}),
        (["resolution=2k", "memory=stream"], {"text": 1.5, "detail": 6.5}),
        (["resolution=4k", "memory=stream"], {"detail": 11.3}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_full_size_at_121_frames_stays_below(
    overrides: list[str], limits: dict[str, float]
) -> None:
    """Weights and activations in GB, traced; bfloat16 weights, float32 residual stream."""
    stages = plan("backbone=wan2_2_ti2v_5b", *overrides).by_name
    for name, limit in limits.items():
        assert 0 < stages[name].peak_gb <= limit, name
        assert stages[name].mode == overrides[1].split("=")[1]


@torch.no_grad()
@pytest.mark.parametrize(("chunk", "lean"), [(5, False), (100, False), (5, True)])
def test_what_is_counted_from_one_block_and_one_forward_is_what_all_of_them_need(
    chunk: int, lean: bool
) -> None:
    sizes = replace(BACKBONE.dit, num_layers=4)
    schedule = make_schedule(SamplerSettings(steps=4, step_sizes="raw"), 5.0)
    stage = Sampling(
        *(sizes, 2, SIZE.geometry, SIZE.anchor_geometry, schedule, 5.0),
        *(torch.float32, torch.float32),
    )
    counted = cost_of_sampling(stage, stream=False, chunk=chunk, lean=lean)
    trace = Trace()
    with trace:
        with META:
            network = ShortcutDiT(sizes, [0, 1])
        network.requires_grad_(False).chunk, network.lean = chunk, lean
        trace.restart_peak()
        texts = [torch.empty(sizes.text_len, sizes.text_dim, device=META) for _ in range(2)]
        noise, anchor = (
            torch.empty(sizes.in_dim, *geometry.latent_grid, device=META)
            for geometry in (SIZE.geometry, SIZE.anchor_geometry)
        )
        Detail(network, schedule, 5.0)(noise, anchor, *texts)
    assert counted.flops == trace.flops
    assert counted.peak == pytest.approx(trace.peak, rel=0.1)


def test_the_first_way_that_fits_is_chosen() -> None:
    roomy = make_plan(SMALL, budget_gb=10)
    assert {stage.mode for stage in roomy.stages} == {"resident"} and roomy.refusal is None
    assert roomy.by_name["detail"].chunk == CHUNKS[0]
    forced = make_plan(replace(SMALL, memory=MemorySettings(mode="stream", chunk=100)))
    assert forced.by_name["detail"].mode == "stream" and forced.by_name["detail"].chunk == 100


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    tight = make_plan(SMALL, budget_gb=0.5)
    assert tight.refusal is not None and "\n" not in tight.refusal
    assert "memory.budget_gb=0.5 is too little" in tight.refusal
    assert "DOES NOT FIT" in table(tight)


def test_a_4k_video_on_a_card_of_24_gb(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "backbone=wan2_2_ti2v_5b", "resolution=4k", "format=json"]
    main([*words, "memory.budget_gb=24"])
    found = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in found["stages"]] == ["text", "anchor", "detail", "decode"]
    detail = found["stages"][2]
    assert detail["mode"] == "resident" and detail["fits"] and detail["tokens"] == 249_240
    assert detail["tflop"] == pytest.approx(8 * 25_100, rel=0.02) and detail["seconds"] > 100
    assert found["stages"][3]["tiles"] == [1, 2]  # whole frames would need 39 GB


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_4k_in_8_bits_is_resident_on_a_card_of_12_gb(kind: str) -> None:
    words = [*FULL_4K, f"backbone.quantize={kind}", "memory.budget_gb=12"]
    found = plan(*words, only=["text", "detail"]).by_name
    text, detail = found["text"], found["detail"]
    assert (text.mode, text.fits) == ("resident", True)
    assert text.weights_gb == pytest.approx(6.73, abs=0.01)  # bfloat16: 11.36
    assert (detail.mode, detail.fits, detail.lean) == ("resident", True, True)
    assert detail.peak_gb <= 12 - CONTEXT / 1e9 and detail.weights_gb == pytest.approx(
        5.3, abs=0.05
    )
    assert "one head at a time" in details(detail)
    texts = 2 * 30 * 2 * 512 * 3072 * 2 / 1e9  # both passes' keys and values in every block
    assert detail.host_gb == pytest.approx(1.53 + texts, abs=0.01)


def test_attention_is_counted_by_its_formula() -> None:
    cost = transformer_cost.cost_of_sampling(
        Sampling(
            *(replace(BACKBONE.dit, num_layers=1), 0, SIZE.geometry, None),
            make_schedule(SamplerSettings(solver="euler", steps=1, guidance=1.0), 5.0),
            *(5.0, torch.float32, torch.float32),
        ),
        stream=False,
        chunk=1000,
    )
    tokens, dim = SIZE.geometry.tokens, BACKBONE.dit.dim
    assert cost.flops["attention"] == 4 * tokens * dim * (tokens + BACKBONE.dit.text_len)


@pytest.mark.parametrize(
    ("way", "limit"),
    [(["decode=seamless"], 40.0), (["decode.mode=tiled", "decode.tiles=[3,4]"], 6.0)],
    ids=["seamless", "tiled"],
)
def test_a_full_width_4k_decode_needs_the_same_for_17_and_121_frames(
    way: list[str], limit: float
) -> None:
    """GB with the weights, traced; bfloat16. The difference is the latent, which is there whole."""
    short, long = (decode(*way, f"resolution.frames={n}").peak_gb for n in (17, 121))
    assert short <= long <= limit and long < 1.02 * short


@torch.no_grad()
def test_the_traced_decode_is_the_measured_one() -> None:
    size = replace(SIZE, frames=17)
    config = replace(SMALL, resolution=size)
    vae = WanVAE(BACKBONE.vae).lay_out()
    for tiles in (WHOLE, Tiles(1, 2, 1)):
        counted = cost_of_decode(config, tiles)
        with Trace() as trace:
            latent = torch.empty(BACKBONE.vae.z_dim, *size.geometry.latent_grid)
            for _ in Decode(vae, tiles)(latent):
                pass
        assert counted.peak - counted.weights == trace.peak
        assert counted.flops == pytest.approx(trace.flops, rel=0.02)


def test_auto_takes_whole_frames_or_the_fewest_tiles_that_fit() -> None:
    config = replace(SMALL, decode=DecodeSettings(overlap=1))
    grids = allowed(config)
    assert grids[0] == WHOLE and [tiles.count for tiles in grids] == [1, 2, 3, 6, 8]
    for place in range(4):
        needed = cost_of_decode(config, grids[place]).peak
        assert choose_tiles(config, needed) == (grids[place], cost_of_decode(config, grids[place]))
    assert choose_tiles(config, 0)[0] == grids[-1]
    whole = cost_of_decode(config, WHOLE).peak
    assert surely_whole(config, 1e9) and not surely_whole(config, whole)


def test_other_modes_leave_no_choice() -> None:
    fixed = DecodeSettings("tiled", [2, 2], overlap=1)
    for settings, tiles in ((fixed, Tiles(2, 2, 1)), (DecodeSettings("seamless"), WHOLE)):
        assert choose_tiles(replace(SMALL, decode=settings), 0)[0] == tiles


def test_a_seamless_decode_that_does_not_fit_is_refused_with_what_would() -> None:
    tight = plan(*FULL_4K, "decode=seamless", "memory.budget_gb=24", only=["decode"])
    assert tight.refusal is not None and "decode stage needs" in tight.refusal
    assert "whole frames; use" in tight.refusal and "decode=auto" in tight.refusal


@pytest.mark.parametrize("task", ["plan", "generate"])
def test_more_tiles_than_columns_are_one_sentence(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([task, "resolution=4k", "decode.mode=tiled", "decode.tiles=[1,99]"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "decode.tiles=[1, 99]" in said and "nearest: [1, 40]" in said


RECORD: dict[str, Any] = {
    "rates": (812.7, 691.8, 581.6, 4.107, 55.41),
    "planned": {"text": 0.019, "anchor": 7.06, "detail": 70.8, "decode": 16.8},
    "measured": {"text": 0.298, "anchor": 8.68, "detail": 87.0, "decode": 21.6},
}
"""2K on an H200, docs/benchmarks.md, before functions were compiled."""


def modulated_then(x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: Any) -> Tensor:
    """The function when the record was made: more operations than now."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).to(dtype)


def normed_heads_then(x: Tensor, weight: Tensor, eps: float, heads: int, table: Any) -> Tensor:
    """The function when the record was made: more operations than now."""
    y = F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).unflatten(-1, (heads, -1))
    return (y if table is None else rotate(y, table)).to(x.dtype)


def test_a_plan_with_the_shares_of_the_h200s_record_is_within_a_tenth_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    planned, measured = RECORD["planned"], RECORD["measured"]
    shares = {name: planned[name] / measured[name] for name in measured}
    keep(DeviceRates("NVIDIA H200", *RECORD["rates"], reached=shares))
    then = replace(PLAIN, modulated=modulated_then, normed_heads=normed_heads_then)
    monkeypatch.setattr("pixelwizard.planning.planner.chosen", lambda *_: then)
    found = plan("backbone=wan2_2_ti2v_5b", "resolution=2k", "memory=resident", "compile=off")
    for name, seconds in measured.items():
        near = pytest.approx(seconds, rel=0.1, abs=0.15)  # the text's depends on transformers
        assert found.by_name[name].seconds == near, name


@pytest.mark.parametrize("stage", STAGES)
def test_the_built_in_rates_give_every_stage_of_the_h200s_record_within_a_tenth(stage: str) -> None:
    """As it was measured: nothing compiled. Today's decode has 7.6 % fewer operations."""
    two_k = ("backbone=wan2_2_ti2v_5b", "resolution=2k", "memory=resident", "compile=off")
    found = plan(*two_k, "device=h200", only=[stage]).by_name[stage]
    assert found.seconds == pytest.approx(RECORD["measured"][stage], rel=0.1)
    assert found.limit_seconds == pytest.approx(found.seconds - FIRST_USE, abs=2e-3)


def test_work_that_is_done_once_a_video_is_counted_once() -> None:
    """Both texts' keys and values and the anchor's features, whatever the number of steps."""
    sizes, grid = replace(BACKBONE.dit, num_layers=4), SIZE.geometry.token_grid
    costs = []
    for steps in (1, 2):
        schedule = make_schedule(SamplerSettings(steps=steps, step_sizes="raw"), 5.0)
        stage = Sampling(
            *(sizes, 2, SIZE.geometry, SIZE.anchor_geometry, schedule, 5.0),
            *(torch.float32, torch.float32),
        )
        costs.append(cost_of_sampling(stage, stream=False, chunk=100).flops)
    with META:
        network = ShortcutDiT(sizes, [0, 1]).requires_grad_(False)
    with Trace() as once, torch.no_grad():
        for _ in range(2):
            network.encode_text([torch.empty(sizes.text_len, sizes.text_dim, device=META)])
        anchor = torch.empty(1, sizes.in_dim, *SIZE.anchor_geometry.latent_grid, device=META)
        network.encode_anchor(anchor, grid)
    for kind in ("matmul", "conv"):
        assert 2 * costs[0][kind] - costs[1][kind] == once.flops[kind] > 0


def test_host_memory_of_a_stage_is_streamed_weights_embedding_and_features() -> None:
    full = ("backbone=wan2_2_ti2v_5b", "resolution=2k", "device=h200")
    streamed, resident, offloaded = (
        plan(*full, f"memory={mode}", only=["text", "detail", "decode"])
        for mode in ("stream", "resident", "offload")
    )
    features = 111_600 * 3072 * 2 / 1e9
    blocks = 30 * 163_733_504 * 2 / 1e9
    assert resident.by_name["text"].host_gb == 0
    assert resident.by_name["detail"].host_gb == 0
    tight = plan(*full, "memory=resident", "memory.budget_gb=15.5", only=["detail"])
    assert tight.by_name["detail"].host_gb == pytest.approx(features, rel=1e-3)
    assert streamed.by_name["detail"].host_gb == pytest.approx(blocks, rel=1e-3)
    text = streamed.by_name["text"]
    assert text.host_gb == pytest.approx(resident.by_name["text"].weights_gb, rel=1e-3)
    assert streamed.host_gb == max(text.host_gb, streamed.by_name["detail"].host_gb)
    weights = sum(stage.weights_gb for stage in offloaded.stages)
    frames = resident.by_name["decode"].host_gb
    assert frames > 0 and offloaded.host_gb == pytest.approx(weights + frames, rel=1e-6)
    for one in (streamed, resident, offloaded):
        assert one.by_name["detail"].loading_seconds == pytest.approx(10.21 / 3, rel=1e-2)


def test_the_features_of_one_window_at_a_time_are_on_the_host() -> None:
    long = replace(SIZE, frames=17)
    schedule = make_schedule(SamplerSettings(steps=2, step_sizes="raw"), 5.0)
    stage = Sampling(
        *(BACKBONE.dit, 1, long.geometry, long.anchor_geometry, schedule, 5.0),
        *(torch.float32, torch.float32),
        window=SIZE.geometry,
    )
    features = 4 * SIZE.geometry.tokens * BACKBONE.dit.dim
    assert cost_of_sampling(stage, stream=False, chunk=100).host == features


def test_the_canvas_of_tiles_is_what_numpy_allocates() -> None:
    size, tiles = replace(SIZE, frames=17, width=256, height=256), Tiles(2, 2, 1)
    counted = cost_of_decode(replace(SMALL, resolution=size), tiles).host
    vae = WanVAE(BACKBONE.vae).lay_out()
    latent = torch.zeros(BACKBONE.vae.z_dim, *size.geometry.latent_grid)
    tracemalloc.start()
    for _ in Decode(vae, tiles)(latent):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counted == size.geometry.clip_bytes * 18 // 16
    assert peak == pytest.approx(counted, rel=0.2)  # and what a blend of one tile needs


def test_the_file_of_a_video_counts_where_it_takes_longer_than_the_decode() -> None:
    fast, slow = (
        plan("resolution=2k", "device=h200"),
        plan("resolution=2k", "device=h200", "video.codec=h265"),
    )
    stages = sum(stage.seconds for stage in fast.stages)
    pixels = 121 * 2560 * 1440 / 1e6
    assert fast.writing_seconds == pytest.approx(pixels * 0.10 / 16, rel=1e-3)
    assert slow.writing_seconds == pytest.approx(pixels * 0.30 / 16, rel=1e-3)
    assert fast.seconds == slow.seconds == stages
    eight = make_plan(compose("plan", ["resolution=2k"])[0].config, "h200", mesh=Mesh(sequence=8))
    assert eight.writing_seconds == pytest.approx(fast.writing_seconds / 8, abs=1e-3)
    late = replace(slow, writing_seconds=slow.by_name["decode"].seconds + 5)
    assert late.seconds == pytest.approx(stages + 5)
    assert "video file: 3 s during the decode; loading weights: 11 s per group" in table(fast)
