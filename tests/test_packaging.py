"""The wheel is whole: installed elsewhere, it composes and finds its experiments.

The videos that it makes are in ``test_extend``; ``test_readme`` composes every experiment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from pixelwizard import __version__

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
    for task, experiment in (("train", "train_tiny_anchor"), ("generate", "compare_schedules")):
        run(installed, tmp_path, task, f"experiments={experiment}", "--cfg", "job")
