"""The plan of a training: what a step has alive, and what lies on each GPU between steps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from small import BACKBONE, SIZE

from pixelwizard.cli.tasks import plan
from pixelwizard.config.generate import PlanConfig
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.planning.training_cost import plan_training, trace_step

TOKENS = SIZE.geometry.tokens


LARGE = Geometry(2 * SIZE.width, SIZE.height, SIZE.frames)


def of_a_block(geometry: Geometry, checkpointing: bool) -> int:
    """What one block more adds to the peak."""
    peaks = []
    for layers in (7, 8):
        sizes = replace(BACKBONE.dit, num_layers=layers)
        with torch.device("meta"):
            network = WanDiT(sizes).to(torch.bfloat16)
        network.checkpointing = checkpointing
        peaks.append(trace_step(network, geometry, None))
    return peaks[1] - peaks[0]


def test_a_checkpointed_block_keeps_of_a_clip_its_input_alone() -> None:
    """The residual stream, float32; what it keeps of the text does not depend on the clip."""
    more = LARGE.tokens - TOKENS
    grown = of_a_block(LARGE, True) - of_a_block(SIZE.geometry, True)
    assert grown == more * BACKBONE.dit.dim * 4
    assert of_a_block(LARGE, False) - of_a_block(SIZE.geometry, False) > 8 * grown


def test_gpus_share_what_stays_and_not_what_a_clip_needs() -> None:
    config = PlanConfig(run_dir="", backbone=BACKBONE, resolution=SIZE, train="detail", gpus=[1, 4])
    one, four = plan_training(config)
    with torch.device("meta"):
        network = ShortcutDiT(BACKBONE.detail_dit, BACKBONE.control_blocks)
    weights = sum(p.numel() for p in network.parameters())
    kept = one.weights_gb + one.gradients_gb + one.optimizer_gb + one.average_gb
    assert kept == pytest.approx(20 * weights / 1e9)
    assert four.weights_gb == one.weights_gb / 4 and four.optimizer_gb == one.optimizer_gb / 4
    assert four.activations_gb == one.activations_gb > 0
    assert one.tokens == TOKENS


def test_the_plan_of_a_training_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    config = PlanConfig(run_dir="", backbone=BACKBONE, resolution=SIZE, train="anchor")
    assert plan.run(config, []) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[:2] == ["GPUs", "tokens"] and [line.split()[0] for line in said[2:]] == [
        "1",
        "8",
    ]
    assert plan.run(replace(config, format="json"), []) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["gpus"] for entry in found["plans"]] == [1, 8]
    assert found["plans"][0]["peak_gb"] > found["plans"][1]["peak_gb"]
    with pytest.raises(ConfigError, match="gpus.* is for train"):
        check(replace(config, train=None, gpus=[2]))
