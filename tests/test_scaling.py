"""The plan of several ranks: what each needs and sends, and what more devices would bring."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small import BACKBONE, SIZE

from pixelwizard.cli.main import main
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.parallel import Mesh
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.planning.device import DEVICES, META
from pixelwizard.planning.transformer_cost import (
    Cost,
    Sampling,
    cost_of_sampling,
    gather_bytes,
    guidance_bytes,
    shard_bytes,
    ulysses_bytes,
)

STEPS = 3


def cost(mesh: Mesh, chunk: int = 100) -> Cost:
    """Of a detail stage of three guided steps."""
    stage = Sampling(
        *(BACKBONE.dit, 1, SIZE.geometry, SIZE.anchor_geometry),
        make_schedule(SamplerSettings(steps=STEPS, step_sizes="raw"), 5.0),
        *(5.0, torch.bfloat16, torch.float32),
        mesh=mesh,
    )
    return cost_of_sampling(stage, stream=False, chunk=chunk)


def test_two_ranks_of_a_sequence_share_the_work_and_the_tokens() -> None:
    alone, half = cost(Mesh()), cost(Mesh(sequence=2))
    assert half.flops["attention"] < 0.55 * alone.flops["attention"]  # the text's keys are whole
    assert half.weights == alone.weights and half.peak < alone.peak


def test_each_half_of_guidance_makes_one_of_the_two_passes() -> None:
    alone, half = cost(Mesh()), cost(Mesh(guidance=2))
    assert 2 * half.flops["attention"] == alone.flops["attention"]
    assert half.peak - half.weights == pytest.approx(alone.peak - alone.weights, rel=0.05)


def test_a_rank_sends_by_the_formula() -> None:
    """4 L d b / P (P - 1) / P a layer, the patches of its tokens a pass, a prediction a step."""
    tokens, sizes = SIZE.geometry.tokens, BACKBONE.dit
    layer = 4 * tokens * sizes.dim * 2 // 4
    assert ulysses_bytes(tokens, sizes.dim, 2) == layer
    latent = sizes.out_dim * tokens * 4
    sent = cost(Mesh(guidance=2, sequence=2)).sent
    assert sent["sequence"] == STEPS * (sizes.num_layers * layer + gather_bytes(latent // 2, 2))
    assert sent["guidance"] == STEPS * guidance_bytes(latent)
    assert not cost(Mesh(prompts=2)).sent.total()


@pytest.mark.parametrize(
    ("tokens", "dim", "ranks", "gigabytes"), [(249_240, 3072, 8, 0.670), (111_600, 3072, 8, 0.300)]
)
def test_the_bytes_of_a_layer_at_full_size(
    tokens: int, dim: int, ranks: int, gigabytes: float
) -> None:
    assert ulysses_bytes(tokens, dim, ranks) / 1e9 == pytest.approx(gigabytes, abs=1e-3)


def test_sharded_weights_leave_a_share_and_two_blocks_on_a_rank() -> None:
    with META:
        network = WanDiT(BACKBONE.dit).to(torch.bfloat16)
    block = sum(weight.nbytes for weight in network.blocks[0].parameters())
    alone, sharded = cost(Mesh()), cost(Mesh(prompts=4, shard="all"))
    rest = alone.weights - BACKBONE.dit.num_layers * block
    expected = alone.weights / 4 + rest + min(2, BACKBONE.dit.num_layers) * block
    assert sharded.weights == pytest.approx(expected, rel=0.02)
    slices = shard_bytes(alone.weights, 4)
    assert sharded.sent["shards"] == pytest.approx(STEPS * slices, rel=0.06)  # a batch of two each


def test_ranks_on_one_machine_are_faster_to_each_other() -> None:
    device = DEVICES["h100"]
    assert device.sending(450e9, 8) == 1 and device.sending(50e9, 16) == 1


def plan(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    main(["plan", "backbone=wan2_2_ti2v_5b", "format=json", *overrides])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_4k_video_on_two_cards_of_80_gb(capsys: pytest.CaptureFixture[str]) -> None:
    """Traced; the seconds are predictions."""
    two = ("parallel=ulysses", "parallel.sequence=2")
    found = plan(capsys, "resolution=4k", "device=h100", *two)
    assert found["refusal"] is None and found["budget_gb"] == 80
    detail, decode = found["stages"][2:]
    assert detail["peak_gb"] < 25 and decode["peak_gb"] < 25 and decode["tiles"] == [1, 1]
    assert detail["tflop"] == pytest.approx(4 * 25_100, rel=0.02)  # half of eight forwards
    assert detail["sent_gb"] == pytest.approx(8 * (30 * 1.531 + 0.096), rel=0.01)
    rows = found["scaling"]
    assert [row["devices"] for row in rows] == [1, 2, 4, 8, 16]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds, reverse=True)
    assert all(row["fits"] and 0.5 < row["efficiency"] <= 1 for row in rows)


def test_the_reason_of_auto_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "backbone=tiny", "resolution=demo", "parallel=auto", "parallel.devices=6")
    sizes = {axis: found["parallel"][axis] for axis in ("prompts", "guidance", "sequence")}
    assert sizes == {"prompts": 1, "guidance": 2, "sequence": 3}
    assert "guidance 2: " in found["parallel"]["reason"]


def test_a_plan_may_ask_for_more_devices_than_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "backbone=tiny", "resolution=demo", "parallel=hybrid", "parallel.guidance=2"]
    assert main([*words, "parallel.prompts=8"]) == 0
    assert "on each of 16 ranks, 8 prompts x 2 guidance x 1 sequence" in capsys.readouterr().out
    assert main([*words, "parallel.devices=1"]) == 2
    assert "parallel.devices" in capsys.readouterr().err
