"""Which steps to skip: errors of edges, the shortest path, and the command."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
import torch

from pixelwizard.cli.main import main
from pixelwizard.generation.skip_search import edge_errors, shortest_path

SIGMAS = (1.0, 0.8, 0.5, 0.2, 0.0)


def test_a_path_is_the_best_of_all_choices_of_steps() -> None:
    errors = torch.rand(7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = errors.masked_fill(torch.ones(7, 8).tril().bool(), torch.inf)
    for computed in range(1, 8):
        choices = ([0, *others] for others in combinations(range(1, 7), computed - 1))
        sums = {
            tuple(steps): sum(float(errors[i, j]) for i, j in zip(steps, [*steps[1:], 7]))  # noqa: B905
            for steps in choices
        }
        best = min(sums, key=sums.__getitem__)
        steps, error = shortest_path(errors, computed)
        assert tuple(steps) == best and error == pytest.approx(sums[best])


def test_skipping_costs_nothing_on_a_straight_way_and_the_bend_elsewhere() -> None:
    noise, straight = torch.randn(2, 3), torch.randn(2, 3)
    line = torch.stack([noise + (sigma - 1) * straight for sigma in SIGMAS])
    assert edge_errors(SIGMAS, [line]).triu(1).nan_to_num(0).abs().max() < 1e-12
    bent = line.clone()
    bent[3:] += 1.0  # in the step from 0.5
    errors = edge_errors(SIGMAS, [bent, line])
    assert float(errors[1, 3]) == pytest.approx(0.5, rel=1e-5)  # the mean of 1 and 0
    assert float(errors[2, 3]) == 0 and float(errors[3, 4]) == 0
    assert float(errors[0, 2]) < 1e-12


def test_a_search_names_a_pattern_for_both_stages(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "backbone=tiny", "resolution=demo", "resolution.frames=5", "skip=search"]
    words += ["anchor.steps=3", "schedule=unipc4", "schedule.steps=3"]
    assert main([*words, "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)["skip"]
    assert [(plan["stage"], plan["computed"]) for plan in found] == [
        *(("anchor", n) for n in (1, 2)),
        *(("detail", n) for n in (1, 2)),
    ]
    for plan in found:
        assert plan["pattern"][0] == "1" and plan["pattern"].count("1") == plan["computed"]
        assert plan["error"] > 0


@pytest.mark.parametrize("word", ["train=detail", "plot=steps.png", "device=h100", "parallel=auto"])
def test_a_search_refuses_what_it_would_ignore(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "backbone=tiny", "skip=search", word]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "skip=search samples in this process" in said
