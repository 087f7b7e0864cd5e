"""The plan: predictions by tracing, at full size, and what is chosen by them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from small import BACKBONE, SIZE

from pixelwizard import sampling_cost
from pixelwizard.cli import main
from pixelwizard.compose import compose
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.plan_settings import PlanConfig
from pixelwizard.planner import CHUNKS, Plan, make_plan, table
from pixelwizard.sampling_cost import META, Sampling, cost_of_sampling
from pixelwizard.settings import MemorySettings, SamplerSettings
from pixelwizard.shortcut.network import ShortcutDiT
from pixelwizard.stages.detail import Detail
from pixelwizard.tracing import Trace

SMALL = PlanConfig("none", backbone=BACKBONE, resolution=SIZE)


def plan(*overrides: str) -> Plan:
    return make_plan(compose("plan", overrides)[0].config)


@pytest.mark.parametrize(
    ("overrides", "limits"),
    [
        (["resolution=2k", "memory=resident"], {"detail": 15.0, "anchor": 12.0}),
        (["resolution=4k", "memory=resident"], {"detail": 19.0, "anchor": 12.0}),
        (["resolution=2k", "memory=stream"], {"detail": 6.0}),
        (["resolution=4k", "memory=stream"], {"detail": 10.0}),
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
@pytest.mark.parametrize("chunk", [5, 100])
def test_what_is_counted_from_one_block_and_one_forward_is_what_all_of_them_need(
    chunk: int,
) -> None:
    sizes = replace(BACKBONE.dit, num_layers=4)
    schedule = make_schedule(SamplerSettings(steps=4, step_sizes="raw"), 5.0)
    stage = Sampling(
        *(sizes, 2, SIZE.geometry, SIZE.anchor_geometry, schedule, 5.0),
        *(torch.float32, torch.float32),
    )
    counted = cost_of_sampling(stage, stream=False, chunk=chunk)
    trace = Trace()
    with trace:
        with META:
            network = ShortcutDiT(sizes, [0, 1])
        network.requires_grad_(False).chunk = chunk
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


def test_attention_is_counted_by_its_formula() -> None:
    cost = sampling_cost.cost_of_sampling(
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
