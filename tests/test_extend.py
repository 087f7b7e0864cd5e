"""The examples of docs/extend.md run from an empty folder, the wheel in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from page import EXAMPLES, PAGE

from pixelwizard.cli.tasks import DEFAULT_TASK, TASKS

QUICK = {
    "generate": (
        *("anchor.steps=2", "resolution.frames=5", "metrics=none", "tracker=none"),
        "--prompt=a red circle grows",
    ),
    "train": ("tracker=csv",),
}
"""What makes the commands of a task end sooner and changes nothing that the page is about."""
DRIVER = """
import sys
from pixelwizard.cli.main import main
from pixelwizard.launch.launch import crew

with crew(forked=True):  # torch is imported once for all
    for words in {commands!r}:
        if code := main(words):
            sys.exit(f"exit code {{code}} of {{words}}")
"""
pytestmark = pytest.mark.slow


def commands() -> list[list[str]]:
    """The page's commands, as words."""
    shell = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S))
    return [shlex.split(line)[1:] for line in shell.splitlines()]


def quick(words: list[str]) -> list[str]:
    """The command with defaults that the page's own words replace."""
    named = words[0] in TASKS
    task = words[0] if named else DEFAULT_TASK
    return [*words[:named], *QUICK.get(task, ()), *words[named:]]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are those of this one."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    scheme = {"base": str(place), "platbase": str(place)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(place), "install"]
    install += ["--no-deps", "--no-index", "--ignore-installed", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def outputs(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's commands left, run one after the other beside the page's files."""
    folder = tmp_path_factory.mktemp("empty")
    for name, content in EXAMPLES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    (folder / "driver").write_text(DRIVER.format(commands=[quick(words) for words in commands()]))
    run(python, "driver", cwd=folder)
    return folder / "outputs"


def run(python: Path, *words: str, cwd: Path) -> str:
    """What the environment's Python prints."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def provenance(run: Path) -> Any:
    """The record of the run's only video."""
    (record,) = (run / "videos").glob("*.json")
    return read(record)


def test_the_package_that_ran_is_the_installed_one(python: Path, outputs: Path) -> None:
    found = run(python, "-c", "import pixelwizard; print(pixelwizard.__file__)", cwd=outputs)
    assert Path(found.strip()).is_relative_to(python.parents[1])


def test_the_solver_asks_twice_in_all_steps_but_the_last(outputs: Path) -> None:
    record = provenance(outputs / "heun")
    assert record["config"]["schedule"]["solver"] == {"_target_": "heun.Heun"}
    assert record["detail"]["nfe"] == 5


def test_the_objective_of_the_page_stands_beside_a_shipped_one(outputs: Path) -> None:
    text = (outputs / "beside" / "objectives.md").read_text(encoding="utf-8")
    assert "| thirds " in text and "| shortcut " in text and "left out" not in text


def test_the_skip_rule_leaves_out_steps_and_evaluates_the_first_and_the_last(
    outputs: Path,
) -> None:
    steps = [step["computed"] for step in provenance(outputs / "lazy")["detail"]["steps"]]
    assert steps[0] and steps[-1] and not all(steps)


def test_the_attention_of_the_page_made_the_video(outputs: Path) -> None:
    record = provenance(outputs / "near")
    assert record["config"]["attention"] == {"_target_": "near.NearFrames", "reach": 1}


def test_a_sweep_runs_the_schedules(outputs: Path) -> None:
    jobs = read(outputs / "schedules" / "sweep.json")["jobs"]
    assert len(jobs) == 2 and {job["status"] for job in jobs.values()} == {"done"}


def test_the_metric_is_scored_like_a_shipped_one(outputs: Path) -> None:
    scores = {score["name"]: score for score in read(outputs / "sharp" / "metrics.json")["set"]}
    assert (
        scores["sharpness"]["value"] > 0 and "sharpness.Sharpness" in scores["sharpness"]["recipe"]
    )
    assert "sharpness" in provenance(outputs / "sharp")["metrics"]


def test_the_resolution_has_an_anchor_of_its_shape(outputs: Path) -> None:
    size = provenance(outputs / "square")["config"]["resolution"]
    assert size["width"] == size["height"] == 256


@pytest.mark.parametrize("name", ["thirds", "logstep", "short", "stripes"])
def test_the_trainings_end_with_two_steps_and_an_export(outputs: Path, name: str) -> None:
    log = (outputs / name / "log.csv").read_text(encoding="utf-8").splitlines()
    assert log[-1].split(",")[0] == "2"
    assert any((outputs / name / "export").rglob("*.safetensors"))


def test_the_network_with_other_conditioning_makes_a_video_of_its_weights(outputs: Path) -> None:
    record = provenance(outputs / "logstep_video")
    network = record["config"]["backbone"]["detail_network"]
    assert network == {"_target_": "logstep.LogStepDiT"}


def test_lightnings_callback_logs_the_rate(outputs: Path) -> None:
    (logged,) = (outputs / "short").rglob("metrics.csv")
    assert "lr-" in logged.read_text(encoding="utf-8").splitlines()[0]
