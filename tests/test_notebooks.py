"""The notebooks and the README's Python run from top to bottom, on clips of five frames."""

from __future__ import annotations

import ast
import json
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import pixelwizard
from pixelwizard.worker import run

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = ["resolution.frames=5", "resolution.width=128", "resolution.height=64", "anchor.steps=1"]
QUICK = ["resolution.frames=5", "anchor.steps=2", "tracker=none"]


def cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell as Jupyter does; the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, short runs, and IPython's ``Video`` whether installed or not.

    Jobs run in this process: starting others is tested elsewhere.
    """
    plain, plain_sweep = pixelwizard.generate, pixelwizard.sweep

    def generate(overrides: Sequence[str] = (), prompts: Sequence[str] = ()) -> pixelwizard.Run:
        return plain([*QUICK, *overrides], prompts)

    def sweep(overrides: Sequence[str], prompts: Sequence[str]) -> Path:
        return plain_sweep([*SMALL, *overrides], prompts)

    display = types.ModuleType("IPython.display")
    display.Video = lambda path, embed: Path(path).read_bytes()  # type: ignore[attr-defined]
    display.Image = lambda path: Path(path).read_bytes()  # type: ignore[attr-defined]
    display.Markdown = str  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pixelwizard.launch.launch.launch", lambda folder, _: run(folder))
    monkeypatch.setattr(pixelwizard, "sweep", sweep)
    monkeypatch.setattr(pixelwizard, "generate", generate)
    front = types.ModuleType("IPython")
    front.version_info = (9, 0)  # type: ignore[attr-defined]  # matplotlib asks for it
    monkeypatch.setitem(sys.modules, "IPython", front)
    monkeypatch.setitem(sys.modules, "IPython.display", display)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_results(path: Path) -> None:
    assert cells(path)
    for cell in cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert "def " not in "".join(cell["source"])


@pytest.mark.slow
def test_the_quickstart_shows_what_it_says(quick: None) -> None:
    names: dict[str, Any] = {}
    path = ROOT / "notebooks" / "quickstart.ipynb"
    shown = [run_cell("".join(cell["source"]), names) for cell in cells(path)]
    run, euler, skipped = (names[name] for name in ("run", "euler", "skipped"))
    assert not run.failed and not euler.failed and not skipped.failed
    film, anchor, detail = shown[2:5]
    assert film[4:8] == b"ftyp" and anchor.size == detail.size
    assert [dt for _, dt in shown[6]] == [100, 150, 250, 498]
    first, second = shown[8]
    assert first == second, "the second run computed the anchor again"
    assert shown[10] == [4, 4, 4]


@pytest.mark.slow
def test_the_comparison_shows_what_it_says(quick: None) -> None:
    names: dict[str, Any] = {}
    path = ROOT / "notebooks" / "compare_schedules.ipynb"
    shown = [run_cell("".join(cell["source"]), names) for cell in cells(path)]
    table, picture, difference, dominated, page = shown[2:]
    assert "4 pairs of prompt and seed" in table and "latent-mse/to=" in table
    assert picture[1:4] == b"PNG" and page.is_file() and len(dominated) == 4
    assert difference.low <= difference.value <= difference.high and difference.sign != "equal"
    target = names["report"].comparison.target
    assert names["rows"][target].scores["distance"].value == 0


@pytest.mark.slow
def test_the_python_of_the_readme_runs(quick: None) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, "<README>", "exec"), names)
    assert len(names["run"].videos) == 1 and not names["run"].failed
    assert tuple(names["latent"].shape) == (32, 2, 10, 16)
