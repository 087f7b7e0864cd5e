"""The wheel is whole: installed elsewhere, it composes, finds its experiments and makes videos."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from pixelwizard import __version__
from pixelwizard.config import tasks

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package, and nothing of the checkout."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    program = [sys.executable, "-m", "pixelwizard", *arguments]
    done = subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_the_wheel_holds_the_configuration_the_weights_and_little_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pixelwizard", f"pixelwizard-{__version__}.dist-info"}
    for folder in ("conf", "experiments"):
        for path in (ROOT / folder).rglob("*.yaml"):
            assert f"pixelwizard/{path.relative_to(ROOT).as_posix()}" in names
    for path in (ROOT / "pixelwizard" / "assets").rglob("*"):
        assert path.is_dir() or path.relative_to(ROOT).as_posix() in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 30e6


def test_the_installed_package_answers_from_anywhere(installed: Path, tmp_path: Path) -> None:
    assert "shortcut4" in run(installed, tmp_path, "--help").stdout
    assert __version__ in run(installed, tmp_path, "--version").stdout
    composed = yaml.safe_load(run(installed, tmp_path, "--cfg", "job").stdout)
    assert composed["backbone"]["name"] == "tiny"
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    commands = dict(re.findall(r"^\| `(\w+)` .*\| `pixelwizard ([^`]+)` \|", text, re.MULTILINE))
    for name in tasks.options("experiments"):
        task = "train" if commands[name].startswith("train ") else "generate"
        run(installed, tmp_path, task, f"experiments={name}", "--cfg", "job")


def test_the_installed_package_makes_a_video(installed: Path, tmp_path: Path) -> None:
    prompt = "a red circle moves left over a gray background"
    short = ("resolution.frames=5", "anchor.steps=2", "schedule.steps=2", "tracker=none")
    run(installed, tmp_path, "--prompt", prompt, "run_dir=run", *short)
    (video,) = (tmp_path / "run" / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000
    assert not any((installed / "pixelwizard").rglob("*.mp4"))
