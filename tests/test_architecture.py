"""The house: imports go one way, the front door is light, Hydra lives in one room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pixelwizard"
HEAVY = {"torch", "lightning", "wandb", "transformers", "safetensors", "tokenizers", "PIL"}
HEAVY |= {"matplotlib", "joblib", "submitit", "optuna"}
LIGHT = (
    *("geometry", "schema", "sizes", "settings.output", "settings", "settings.train"),
    *("settings.parallel", "settings.sampler"),
    *("settings.objective", "settings.data", "data.table", "data.rows", "commands.encode"),
    *("settings.weights", "checkpoints", "catalog", "digests", "hub"),
    *("run_folder", "launch", "sweeps.ledger", "compose", "cli", "api", "data.prompts"),
    *("commands", "commands.generate", "commands.train", "commands.plan", "commands.evaluate"),
    *("commands.fetch", "commands.convert", "commands.replay", "settings.replay"),
    *("commands.bench", "settings.bench", "settings.plan", "schedule_table", "text_table"),
    *(
        "failures",
        "forked",
        "parents",
        "sweeps.launchers",
        "sweeps.search",
        "overrides",
        "settings.sweep",
    ),
    *("settings.compare", "commands.compare"),
    *("settings.evaluate", "metrics.names", "metrics.files", "metrics.kept"),
)
FLOORS = (
    ("geometry", "schema", "sizes", "text_table"),
    ("settings",),
    ("diffusion",),
    ("schedule_table",),
    ("checkpoints", "catalog", "digests", "hub"),
    ("wan",),
    ("video",),
    ("shortcut",),
    ("objectives",),
    ("data",),
    ("stages",),
    ("planning",),
    ("run_folder", "parents"),
    ("failures",),
    ("runs", "store", "tracking", "jobs", "provenance", "contact_sheet", "metrics"),
    ("replay",),
    ("bench",),
    ("worker",),
    ("forkserver", "forked"),
    ("launch", "devices"),
    ("comparison",),
    ("commands",),
    ("overrides",),
    ("compose",),
    ("sweeps",),
    ("api",),
    ("cli",),
    ("__main__",),
)
"""From the ground up: a file imports from its own floor and those below."""


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


def floor(name: str) -> int:
    return next(n for n, rooms in enumerate(FLOORS) if name.split(".")[0] in rooms)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path: Path) -> None:
    name = name_of(path)
    for imported in imports(path):
        top, _, inner = imported.partition(".")
        if top == "pixelwizard" and inner and not inner.startswith("__"):
            inner = inner.split(".")[0]
            assert floor(inner) <= floor(name), f"{name} imports {imported}"


def test_hydra_is_imported_by_one_file() -> None:
    users = {
        name_of(path)
        for path in modules()
        if {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf"}
    }
    assert users == {"compose"}


def test_the_front_door_loads_nothing_heavy() -> None:
    code = f"""
import sys, importlib
for name in {LIGHT!r}:
    importlib.import_module("pixelwizard." + name)
heavy = {HEAVY!r} & set(sys.modules)
sys.exit(f"loaded: {{heavy}}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_files_stay_readable() -> None:
    long = {
        name_of(path): lines
        for path in modules()
        if not name_of(path).startswith(("wan.", "shortcut."))
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > 320
    }
    assert not long


def test_experiments_are_differences() -> None:
    for path in (ROOT / "experiments").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# @package _global_"), path
        assert len(text.splitlines()) < 25, path
