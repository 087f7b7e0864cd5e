"""A small run of the programs in ``faults``: kills, and hostile values and files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from faults import fuzz, kills

SECONDS = 10.0
MIDWAY = "195"
"""The first kill meets all processes after two thirds of their time, and hardly ever misses."""


@pytest.mark.parametrize("seed", range(3))
def test_hostile_values_and_files_end_in_a_sentence(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(12):
        case = fuzz.case(None, tmp_path / str(number), draw)
        assert fuzz.judged(case, SECONDS) == "", case


@pytest.mark.slow
def test_a_killed_command_and_one_started_twice_end_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "MOST", 1)
    words = ["--folder", str(tmp_path / "all"), "--tasks", "generate", "--seed", MIDWAY]
    assert kills.main([*words, "--kills", "1", "--twice", "1"]) == 0
