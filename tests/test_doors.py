"""The doors: a part of a configuration may be a class of the user's, from any place it is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Literal, Optional

import pytest

from pixelwizard.cli.compose import compose
from pixelwizard.config import schema, tasks
from pixelwizard.config.generate import RunSettings
from pixelwizard.config.own_source import source_of
from pixelwizard.config.schema import ConfigError, identity, setting
from pixelwizard.config.targets import (
    Door,
    OwnPart,
    Part,
    Target,
    check_doors,
    door_of,
)

HEUN = """
import logging

class Heun(logging.Filter):
    def __init__(self, name="", order=2, tags=()):
        self.order, self.tags = order, tags

class Costly(logging.Filter):
    def __init__(self, size, name=""):
        raise RuntimeError("no room")

class Deaf(logging.Filter):
    def __init__(self):
        pass

class Other:
    pass
"""


@dataclass(frozen=True)
class Inner:
    """A group with a door: any ``logging.Filter`` stands for a solver here."""

    solver: Part = setting("euler", door=Door("logging.Filter", given=("name",)))
    steps: int = 4


@dataclass(frozen=True)
class Rates(OwnPart):
    """A group whose work a class may do; ``warmup`` stays."""

    rate: float = 0.5
    warmup: int = setting(3, stays=True)


@dataclass(frozen=True)
class Root(RunSettings):
    """A task with a door of every kind."""

    task: Literal["plan"] = "plan"
    schedule: Inner = field(default_factory=Inner)
    parallel: Rates = setting(Rates, door=Door("logging.Filter"))
    resolution: Dict[str, Part] = setting({}, door=Door("logging.Filter"))
    memory: Optional[Part] = setting(None, door=Door("logging.Filter"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with ``heun.py``, in which ``plan`` is the task above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(tasks, "ROOTS", {"plan": Root})
    shipped = tmp_path / "shipped" / "conf"
    (shipped / "parallel").mkdir(parents=True)
    (shipped / "plan.yaml").write_text("defaults: [plan_defaults, _self_, {parallel: slow}]\n")
    (shipped / "parallel" / "slow.yaml").write_text("rate: 0.1\n")
    (shipped.parent / "experiments").mkdir()
    monkeypatch.setattr("pixelwizard.config.tasks.PACKAGE", shipped.parent)
    monkeypatch.setattr("pixelwizard.config.targets.Door.names", ["euler", "unipc"])
    (tmp_path / "heun.py").write_text(HEUN)
    yield tmp_path
    sys.modules.pop("heun", None)


def composed(*overrides: str) -> Any:
    (job,) = compose("plan", [*overrides, "run_dir=run"])
    return job.config


def test_a_node_on_the_command_line_names_a_class_of_ones_own(place: Path) -> None:
    for words in (
        ["schedule.solver={_target_: heun.Heun, order: 3}"],
        ["schedule.solver._target_=heun.Heun", "schedule.solver.order=3"],
    ):
        config = composed(*words)
        assert config.schedule.solver == Target("heun.Heun", {"order": 3})
        made = door_of(Inner, "solver").make(config.schedule.solver, "schedule.solver", name="x")
        assert (type(made).__name__, made.order) == ("Heun", 3)
        assert config.search == [str(place)]
        assert tasks.from_plain(schema.to_plain(config)) == config


def test_a_name_stays_a_name_and_records_no_folder(place: Path) -> None:
    config = composed("schedule.solver=unipc")
    assert (config.schedule.solver, config.search) == ("unipc", [])
    assert composed("schedule.solver={name: unipc}") == config


def test_a_node_replaces_another_and_keys_below_change_it(place: Path) -> None:
    words = ["schedule.solver={_target_: heun.Heun, order: 1}", "schedule.solver.tags=[a]"]
    assert composed(*words).schedule.solver.arguments == {"order": 1, "tags": ["a"]}
    again = composed(*words, "schedule.solver={_target_: heun.Heun}")
    assert again.schedule.solver.arguments == {}


def test_parts_by_name_and_a_group_that_is_a_part(place: Path) -> None:
    config = composed("resolution.mine._target_=heun.Heun", "memory={_target_: heun.Heun}")
    assert config.resolution == {"mine": Target("heun.Heun")}
    assert config.memory == Target("heun.Heun")


def test_the_keys_of_a_replaced_group_are_arguments_but_for_those_that_stay(place: Path) -> None:
    assert composed().parallel == Rates(rate=0.1)
    for words in (
        ["parallel._target_=heun.Heun", "parallel.order=1", "parallel.warmup=7"],
        ["parallel={_target_: heun.Heun, order: 1, warmup: 7}"],
    ):
        config = composed(*words)
        assert config.parallel == Rates(warmup=7, target=Target("heun.Heun", {"order": 1}))
        assert tasks.from_plain(schema.to_plain(config)) == config
        plain = {"warmup": 7, "_target_": "heun.Heun", "order": 1}
        assert schema.to_plain(config.parallel) == plain
        assert identity(config.parallel).keys() == {*plain, "source"}
    with pytest.raises(
        ConfigError, match=r"unknown key 'parallel.rat'; did you mean parallel.rate"
    ):
        composed("parallel.rat=1")
    assert identity(Rates()) == {"rate": 0.5, "warmup": 3}


def test_an_own_file_names_a_class_and_wins_over_the_shipped_one(place: Path) -> None:
    for group, text in (
        ("schedule", "solver: {_target_: heun.Heun, order: 4}"),
        ("parallel", "_target_: heun.Heun\nwarmup: 9"),
        ("memory", "_target_: heun.Heun"),
        ("schedule/solver", "_target_: heun.Heun"),
        ("resolution", "mine: {_target_: heun.Heun}"),
    ):
        (place / "conf" / group).mkdir(parents=True, exist_ok=True)
        (place / "conf" / group / "slow.yaml").write_text(text)
    config = composed("schedule=slow", "memory=slow", "resolution=slow")
    assert config.schedule.solver == Target("heun.Heun", {"order": 4})
    assert config.parallel == Rates(warmup=9, target=Target("heun.Heun"))
    assert (config.memory, config.resolution) == (Target("heun.Heun"), {"mine": config.memory})
    own, shipped = (place / at / "parallel/slow.yaml" for at in ("conf", "shipped/conf"))
    assert config.replaced == [f"parallel=slow is {own}, not {shipped}"]
    assert composed("schedule/solver=slow").schedule.solver == Target("heun.Heun")
    assert composed("resolution=[slow]").resolution == {"mine": Target("heun.Heun")}


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ("{_target_: heun.Hen}", "unknown class 'heun.Hen' in schedule.solver; did you mean heun."),
        (
            "{_target_: hoin.Heun}",
            "there is no module hoin on PYTHONPATH, in the working directory",
        ),
        (
            "{_target_: heun.Other}",
            "schedule.solver._target_=heun.Other must be a subclass of logg",
        ),
        ("{_target_: heun.Heun, ordr: 1}", "unknown argument 'schedule.solver.ordr'; did you mean"),
        ("{_target_: heun.Heun, name: a}", "schedule.solver.name is passed by pixelwizard itself"),
        ("{_target_: heun.Deaf}", "heun.Deaf must take name, which pixelwizard passes"),
        ("{_target_: heun.Costly}", "schedule.solver.size is missing; heun.Costly needs it"),
        ("{_target_: Heun}", "schedule.solver._target_=Heun must be a shipped name as"),
        ("{order: 1}", "schedule.solver.name=null must be a shipped name as"),
        ("{_target_: needy.Heun}", "needy needs nowhere_to_be_found, which is missing"),
        ("{_target_: broken.Heun}", "broken cannot be imported (SyntaxError: "),
        ("{_target_: random.Heun}", "random is a standard module, which yours does not"),
        ("heun.Heun", "must be one of euler, unipc; or your own class as schedule.solver._ta"),
        ("{name: unpc}", "did you mean unipc?"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_in_one_sentence(
    place: Path, node: str, sentence: str
) -> None:
    (place / "needy.py").write_text("import nowhere_to_be_found")
    (place / "broken.py").write_text("class")
    (place / "random.py").write_text("class Heun: pass")
    with pytest.raises(ConfigError) as error:
        composed(f"schedule.solver={node}")
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_what_a_class_raises_when_it_is_made_is_its_own_error(place: Path) -> None:
    config = composed("schedule.solver={_target_: heun.Costly, size: 1}")
    with pytest.raises(ConfigError, match=r"heun.Costly cannot be made \(RuntimeError: no room\)"):
        door_of(Inner, "solver").make(config.schedule.solver, "schedule.solver", name="x")


def test_an_edited_class_has_another_identity(place: Path) -> None:
    config = composed("schedule.solver._target_=heun.Heun")
    before = identity(config.schedule)
    (place / "heun.py").write_text(HEUN.replace("order=2", "order=12"))
    assert identity(config.schedule) != before
    made = door_of(Inner, "solver").make(config.schedule.solver, "schedule.solver", name="x")
    assert made.order == 12
    assert identity(Inner()) == {"solver": "euler", "steps": 4}


def test_an_edit_of_a_module_that_the_class_imports_is_an_edit_of_the_class(place: Path) -> None:
    (place / "gains").mkdir()
    (place / "gains/__init__.py").write_text("from .most import LAST\n")
    (place / "gains/most.py").write_text("LAST = 2\n")
    (place / "plain").mkdir()
    (place / "plain/some.py").write_text("NONE = 0\n")
    text = "import gains, torch\nfrom plain.some import NONE\n"
    (place / "heun.py").write_text(text + HEUN.replace("order=2", "order=gains.LAST"))
    config = composed("schedule.solver._target_=heun.Heun")
    before = identity(config.schedule)
    assert set(source_of("heun")) == {"heun", "gains", "gains.most", "plain.some"}
    (place / "gains/most.py").write_text("LAST = 12\n")
    assert identity(config.schedule) != before
    made = door_of(Inner, "solver").make(config.schedule.solver, "schedule.solver", name="x")
    assert made.order == 12
    for name in ("gains", "gains.most", "plain", "plain.some"):
        del sys.modules[name]


def test_packages_of_another_environment_are_not_the_users(place: Path) -> None:
    installed = place / "lib/site-packages"
    installed.mkdir(parents=True)
    (installed / "bought.py").write_text("import heun\n")
    sys.path.append(str(installed))
    (place / "heun.py").write_text("import bought\n" + HEUN)
    composed("schedule.solver._target_=heun.Heun")
    assert set(source_of("heun")) == {"heun"}


def test_a_module_that_prints_or_exits_leaves_stdout_and_the_exit_code_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "loud.py").write_text("print('loud')\n" + HEUN)
    composed("schedule.solver._target_=loud.Heun")
    assert capsys.readouterr() == ("", "loud\n")
    (place / "leaver.py").write_text("raise SystemExit(5)")
    with pytest.raises(ConfigError, match=r"leaver cannot be imported \(SystemExit: 5\)"):
        composed("schedule.solver._target_=leaver.Heun")


def test_a_part_with_no_shipped_names_asks_for_a_class() -> None:
    with pytest.raises(
        ConfigError, match=r"callbacks.a=b must be a class by its full name; nearest: call"
    ):
        Door("logging.Filter").check_name("b", "callbacks.a")


def test_without_a_class_of_ones_own_nothing_is_imported(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed()
    monkeypatch.setattr("pixelwizard.config.targets.resolve_name", None)
    check_doors(config)
