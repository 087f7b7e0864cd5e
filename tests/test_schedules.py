"""The vocabulary of the schedules, their table and picture, and the page that explains them."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from page import EXAMPLES
from PIL import Image
from torch import Tensor

from pixelwizard.cli.main import main
from pixelwizard.config import tasks
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.config.geometry import ResolutionSettings
from pixelwizard.config.targets import Target
from pixelwizard.diffusion.sampling import sample
from pixelwizard.diffusion.schedules import (
    Schedule,
    Step,
    make_schedule,
    schedule_table,
    stage_schedules,
)

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
TINY = ("plan", "backbone=tiny", "resolution=demo")


def block(language: str) -> str:
    """The last fenced block of a language on the page."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[-1]


def test_the_plan_has_every_step_of_both_stages_and_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["schedule=shortcut4_guided2", "anchor=euler20", "plot=pictures/steps.png"]
    assert main([*TINY, *words, "format=json"]) == 0
    found = json.loads(capsys.readouterr().out)["schedules"]
    assert (found["anchor"]["nfe"], found["anchor"]["solver"]) == (40, "euler")
    assert [step["guided"] for step in found["detail"]["steps"]] == [True, True, False, False]
    assert (found["detail"]["nfe"], found["detail"]["guidance"]) == (6, 3.0)
    with Image.open("pictures/steps.png") as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_a_long_schedule_is_shown_by_its_ends() -> None:
    stages = stage_schedules(
        SamplerSettings(steps=50), SamplerSettings(steps=2), ResolutionSettings()
    )
    lines = schedule_table(stages).splitlines()
    assert lines[0] == "anchor: unipc, 50 steps, 100 NFE" and "...  (34 more)" in lines
    assert len(lines) == 2 + 8 + 1 + 8 + 1 + 2 + 2


def test_the_schedules_of_the_shortcut_are_told_their_step_sizes() -> None:
    for name in tasks.options("schedule"):
        if name.startswith("shortcut"):
            assert main([*TINY, f"schedule={name}", "--cfg=job"]) == 0
    dts = [step.dt for step in make_schedule(SamplerSettings(steps=3, step_sizes="raw"), 3.0).steps]
    assert all(dt and dt % 2 == 0 for dt in dts) and sum(filter(None, dts)) in range(992, 1001)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["schedule.timesteps=[600,900]"], "900 comes after 600; nearest: [900.0, 600.0]"),
        (["schedule.timesteps=[1200,900]"], "1200 is outside 0"),
        (["schedule.timesteps=[]"], "schedule.timesteps=[] has no step"),
        (["anchor.timesteps=[900,900]"], "anchor.timesteps=[900.0, 900.0] must decrease strictly"),
        (["schedule.steps=0"], "schedule.steps=0 must be at least 1"),
        (["plot=steps"], "plot=steps must end in .png; nearest: steps.png"),
    ],
)
def test_an_impossible_schedule_is_refused_by_name(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, *words]) == 2
    said = capsys.readouterr().err.replace(f"{tmp_path}/", "")
    assert sentence in said and said.count("\n") == 1


def test_the_file_of_the_page_is_a_schedule_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("conf", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.setattr(tasks, "PACKAGE", tmp_path / "pixelwizard")
    (name,) = re.findall(r"`(conf/schedule/\w+\.yaml)`", PAGE)
    (tmp_path / name).write_text(block("yaml"), encoding="utf-8")
    command, *shown = block("console").splitlines()
    assert main(command.split()[2:]) == 0
    assert "\n".join(shown) in capsys.readouterr().out


def test_the_class_of_the_page_is_a_solver_of_second_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heun.py").write_text(EXAMPLES["heun.py"], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    heun = Target("heun.Heun")
    assert make_schedule(SamplerSettings(solver=heun, steps=5, guidance=1.0), 5.0).nfe == 9

    def velocity(x: Tensor, step: Step) -> Tensor:
        return x  # dx/dsigma = x: from sigma 1 to 0 it falls by e

    errors = []
    for count in (16, 32):
        steps = tuple(
            Step(1 - i / count, 0.0, None, False, 1 + (i < count - 1)) for i in range(count)
        )
        end = sample(velocity, torch.ones(1, dtype=torch.float32), Schedule(heun, steps))
        errors.append(abs(float(end) - math.exp(-1)))
    assert 3.5 < errors[0] / errors[1] < 4.5
