"""The house: imports go one way, the front door is light, Hydra lives in one room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from pixelwizard.cli.tasks import TASKS
from pixelwizard.diffusion.schedules import SOLVER

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pixelwizard"
HEAVY = {"torch", "lightning", "wandb", "transformers", "safetensors", "tokenizers", "PIL"}
HEAVY |= {"numpy", "av", "matplotlib", "joblib", "submitit", "optuna"}
LIGHT = (
    *("config.tasks", "config.sweep", "config.geometry"),
    *("io.files", "io.hub", "io.tables", "io.terminal", "io.process", "io.video"),
    *("data.prompts", "data.table", "models.checkpoints"),
    *("diffusion.schedules", *(f"diffusion.solvers.{name}" for name in SOLVER.names)),
    *("records.run_folder", "records.provenance"),
    *("evaluation.names", "evaluation.files", "generation.run", "generation.replay"),
    *("launch.launch", "launch.processes"),
    *("cli.arguments", "cli.completion", "cli.habits"),
    *("cli.main", "cli.compose"),
    *("cli.sweeps.ledger", "cli.sweeps.launchers", "cli.sweeps.sweeping"),
    *(f"cli.tasks.{task}" for task in TASKS),
    "api",
)
OPTIONAL = (
    *("diffusion.skip", "stages.agree", "generation.encoding", "generation.scoring", "tracking"),
    *("data.source_files", "models.lora", "models.wan.streaming", "parallel.exchange"),
    *("planning", "evaluation", "comparison", "training", "bench"),
)
"""What a plain run does without: each is imported where it is asked for."""
ROOMS = (
    *("config", "io", "parallel", "models", "data", "diffusion", "stages", "records", "tracking"),
    *("planning", "evaluation", "generation", "training", "bench", "comparison", "worker"),
    *("launch", "cli", "api", "__main__"),
)
"""From the ground up: a room imports from itself and from those before it."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Full names of everything a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    name = name_of(path)
    for imported in imports(path):
        top, _, inner = imported.partition(".")
        if top == "pixelwizard" and inner and not inner.startswith("__"):
            assert ROOMS.index(room(inner)) <= ROOMS.index(room(name)), f"{name} imports {imported}"


def test_no_file_imports_itself_through_others() -> None:
    names = {name_of(path) for path in modules()}
    graph = {
        name_of(path): {inner for found in imports(path) if (inner := owner(found, names))}
        for path in modules()
    }
    TopologicalSorter({name: found - {name} for name, found in graph.items()}).prepare()


def owner(imported: str, names: set[str]) -> str | None:
    """The file of this package that an imported name is in."""
    inner = imported.removeprefix("pixelwizard.")
    return next((n for n in (inner, inner.rpartition(".")[0]) if n in names), None)


def test_hydra_is_imported_by_three_files_of_the_command_line() -> None:
    users = {
        name_of(path)
        for path in modules()
        if {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    }
    assert users == {"cli.compose", "cli.own_files", "cli.shown"}


def test_the_front_door_loads_nothing_heavy() -> None:
    code = f"""
import sys, importlib
for name in {LIGHT!r}:
    importlib.import_module("pixelwizard." + name)
heavy = {HEAVY!r} & set(sys.modules)
sys.exit(f"loaded: {{heavy}}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_makes_videos_imports_no_feature_that_is_off() -> None:
    code = f"""
import sys
import pixelwizard.generation.predict
names = [name.removeprefix("pixelwizard.") for name in sys.modules]
found = [name for name in names if f"{{name}}.".startswith(tuple(f"{{o}}." for o in {OPTIONAL!r}))]
sys.exit(f"loaded: {{found}}" if found else 0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_files_stay_readable() -> None:
    long = {
        name_of(path): lines
        for path in modules()
        if not name_of(path).startswith("models.")
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_experiments_are_differences() -> None:
    for path in (ROOT / "experiments").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# @package _global_"), path
        assert len(text.splitlines()) < 25, path
