"""Power: what a paired comparison can show, checked by simulating its verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comparable import make_sweep

from pixelwizard.cli.main import main
from pixelwizard.evaluation.score import detectable, mean_with_interval, pairs_needed


def shown(values_TP: torch.Tensor, mean: float) -> float:
    """How often the interval of ``compare`` excludes a mean."""
    found = 0
    for values in values_TP:
        _, low, high = mean_with_interval(values)
        found += not low <= mean <= high
    return found / len(values_TP)


@pytest.mark.parametrize("pairs", [8, 24])
def test_the_detectable_difference_is_shown_in_four_of_five_comparisons(pairs: int) -> None:
    draw, difference = torch.Generator().manual_seed(0), detectable(1.0, pairs)
    values = torch.randn(600, pairs, generator=draw, dtype=torch.float64)
    assert shown(values + difference, 0.0) == pytest.approx(0.8, abs=0.05)
    assert shown(values, 0.0) == pytest.approx(0.05, abs=0.025)


def test_intervals_of_skewed_differences_miss_the_mean_in_under_a_tenth_of_comparisons() -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.empty(600, 24, dtype=torch.float64).exponential_(generator=draw)
    assert shown(values, 1.0) < 0.1


def test_the_pairs_that_a_difference_needs_detect_it() -> None:
    pairs = pairs_needed(2.0, -0.5)
    assert detectable(2.0, pairs) <= 0.5 < detectable(2.0, pairs - 1)


def test_plan_says_what_a_sweep_could_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make_sweep(tmp_path / "sweep", seeds=(0, 1))
    assert main(["plan", f"power=[{sweep}]", "n=100", "format=json"]) == 0
    found = {one["score"]: one for one in json.loads(capsys.readouterr().out)["power"]}
    distance = found["distance"]
    assert distance["pairs"] == 100
    assert distance["detectable"] == pytest.approx(2.8294 * distance["deviation"] / 10, rel=1e-3)
    assert main(["plan", f"power=[{sweep}]"]) == 0
    assert "4 pairs show" in capsys.readouterr().out  # two prompts, two seeds
    assert main(["plan", f"power=[{sweep}]", "metrics=[nfe,distance]", "format=json"]) == 0
    few = [one["score"] for one in json.loads(capsys.readouterr().out)["power"]]
    assert few == ["nfe", "distance"]
    assert main(["plan", f"power=[{sweep}]", "metrics=[distanc]"]) == 2
    assert "metrics=distanc must be one of" in capsys.readouterr().err
    assert main(["plan", "metrics=[niqe]"]) == 2
    assert "metrics=['niqe'] is for power=[FOLDER]" in capsys.readouterr().err
    assert main(["plan", "n=24"]) == 2
    assert "n=24 is for power=[FOLDER]" in capsys.readouterr().err
