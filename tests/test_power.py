"""Power: what a paired comparison can show, checked by simulating its verdict."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median

import pytest
import torch
from comparable import make_run, make_sweep
from torch import Tensor

from pixelwizard.cli.main import main
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.evaluation import kernel
from pixelwizard.evaluation.kernel import KernelDistance
from pixelwizard.evaluation.metrics.base import Given
from pixelwizard.evaluation.metrics.fvd import FrechetVideoDistance
from pixelwizard.evaluation.reference import SetDistance
from pixelwizard.evaluation.score import (
    Difference,
    detectable,
    difference_of,
    mean_with_interval,
    pairs_needed,
)


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
    assert main(["plan", str(sweep), "scores=[nfe,distance]", "format=json"]) == 0
    few = [one["score"] for one in json.loads(capsys.readouterr().out)["power"]]
    assert few == ["nfe", "distance"]


def test_plan_takes_the_scores_of_a_group_of_metrics_and_names_what_the_runs_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    for run, error in zip(runs, (0.02, 0.05), strict=True):
        sampler = SamplerSettings(steps=4, step_sizes="raw" if error < 0.03 else "none")
        make_run(run, sampler, error, metrics={"niqe": 5.0, "clip": 20.0})
    words = ["plan", *map(str, runs), "metrics=real", "n=24"]
    assert main([*words, "format=json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["score"] for one in said["power"]] == ["niqe"]  # real has no CLIP
    (note,) = said["notes"]
    assert note.startswith("the runs do not share these scores: hd-mse, ") and "fvd" not in note
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "24 pairs show" in shown and note in shown
    assert main([*words, "metrics=none"]) == 2
    assert "metrics=none leaves nothing to plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["metrics=real"], "metrics= needs runs that show how much scores vary; name some: "),
        (["n=24"], "n= needs runs that show how much scores vary"),
        (["scores=[niqe]"], "pixelwizard plan RUNS scores=..."),
        (["RUN", "scores=[distanc]"], "scores=distanc must be one of"),
        (["RUN", "scores=[niqe]", "metrics=real"], "both choose what is planned; leave one out"),
        (["RUN", "metrics=real"], "none of these scores has paired differences: hd-mse, "),
        (["RUN", "metrics=[niqe,ti]"], "metrics=[niqe,ti] must be one of auto, long-text, none, "),
    ],
)
def test_mistakes_of_planning_a_comparison_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    sweep = make_sweep(tmp_path / "sweep", seeds=(0,)) if "RUN" in words else tmp_path
    assert main(["plan", *(word.replace("RUN", str(sweep)) for word in words)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


class Discrepancy(KernelDistance):
    """Video-level, as frame-MMD has it."""

    def look_with(self, given: Given) -> str:
        return "image"

    def features(self, seen: Tensor) -> Tensor:
        return seen


class Frechet(FrechetVideoDistance):
    resamplings = 2  # the interval of one set is not looked at here

    def features(self, seen: Tensor) -> Tensor:
        return seen


def shares(kind: type[SetDistance], samples_VD: Tensor) -> Tensor:
    """The pseudo-values of a set of videos, a sample each; their mean is the score."""
    metric = kind()
    draw = torch.Generator().manual_seed(7)
    metric.real = metric.summary(
        iter(torch.randn(100, samples_VD.shape[1], generator=draw).split(1))
    )
    for sample in samples_VD.split(1):
        metric.update(sample)
    value = metric.compute()[0]
    assert metric.pseudo_values is not None
    assert float(metric.pseudo_values.mean()) == pytest.approx(float(value), abs=1e-6)
    return metric.pseudo_values


def signs(
    kind: type[SetDistance], size: tuple[int, int], arms: tuple[float, float], times: int
) -> list[Difference]:
    """Two arms of the same prompts, V videos of D features, so far from the real videos each."""
    draw = torch.Generator().manual_seed(times)
    found = []
    for _ in range(times):
        same, *own = torch.randn(3, *size, generator=draw)
        one, two = (
            shares(kind, far + same + 0.4 * noise) for far, noise in zip(arms, own, strict=True)
        )
        found.append(difference_of((two - one).tolist(), higher_is_better=False))
    return found


@pytest.mark.parametrize(
    ("kind", "dim", "arms"), [(Discrepancy, 32, (0.6, 0.64)), (Frechet, 4, (1.0, 1.12))]
)
def test_the_pairs_that_a_score_of_sets_needs_show_its_difference_in_four_of_five(
    kind: type[SetDistance],
    dim: int,
    arms: tuple[float, float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planned from sets of 24; equal arms are told apart as seldom as the interval promises."""
    monkeypatch.setattr(kernel, "RESAMPLINGS", 2)  # as in Frechet
    at_hand = signs(kind, (24, dim), arms, 60)
    mean = fmean(one.value for one in at_hand)
    needed = pairs_needed(median(one.deviation for one in at_hand), mean)
    shown = [one.sign == "worse" for one in signs(kind, (needed, dim), arms, 80)]
    false = [one.sign != "unclear" for one in signs(kind, (24, dim), (arms[0], arms[0]), 81)]
    print(f"{kind.__name__}: {needed} pairs show {fmean(shown):.2f}, equal arms {fmean(false):.2f}")
    assert 0.72 <= fmean(shown) <= 0.97
    assert fmean(false) <= 0.12


def test_a_frechet_distance_of_fewer_videos_than_features_has_no_shares() -> None:
    metric, samples = Frechet(), torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    metric.real = metric.summary(iter(samples.split(1)))
    for sample in samples[:3].split(1):
        metric.update(sample)
    metric.compute()
    assert metric.pseudo_values is None and "fewer than the 4 features" in metric.warnings[0]


def test_one_pair_tells_nothing_but_that_it_is_equal() -> None:
    assert difference_of([0.3], higher_is_better=True).sign == "unclear"
    assert difference_of([0.0], higher_is_better=True).sign == "equal"
    assert difference_of([0.3, 0.3], higher_is_better=True).sign == "better"
