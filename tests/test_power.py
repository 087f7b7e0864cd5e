"""Power: what a paired comparison can show, checked by simulating its verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from comparable import make_sweep

from pixelwizard.cli.main import main
from pixelwizard.evaluation.score import detectable, mean_with_interval, pairs_needed


def shown(difference: float, pairs: int, times: int) -> float:
    """How often the interval of ``compare`` excludes 0, for differences of deviation 1."""
    draw = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(times):
        values = torch.randn(pairs, generator=draw, dtype=torch.float64) + difference
        _, low, high = mean_with_interval(values)
        found += not low <= 0 <= high
    return found / times


@pytest.mark.parametrize("pairs", [24, 96])
def test_the_detectable_difference_is_shown_in_four_of_five_comparisons(pairs: int) -> None:
    difference = detectable(1.0, pairs)
    found, by_mistake = shown(difference, pairs, 300), shown(0.0, pairs, 300)
    print(f"{pairs} pairs: {difference:.3f} shown {found:.2f}, 0 shown {by_mistake:.3f}")
    assert found == pytest.approx(0.8, abs=0.06) and by_mistake < 0.13


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
    assert distance["detectable"] == pytest.approx(2.8016 * distance["deviation"] / 10, rel=1e-3)
    assert main(["plan", f"power=[{sweep}]"]) == 0
    assert "4 pairs show" in capsys.readouterr().out  # two prompts, two seeds
    assert main(["plan", "n=24"]) == 2
    assert "n=24 is for power=[FOLDER]" in capsys.readouterr().err
