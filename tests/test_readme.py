"""The papers are true: their commands compose, their tables are the configuration's."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.cli.sweeps import ledger, sweeping
from pixelwizard.cli.tasks import TASKS, compare, evaluate, generate, plan, train
from pixelwizard.config import tasks
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import CODECS, VideoSettings
from pixelwizard.config.schema import to_plain
from pixelwizard.config.tasks import load
from pixelwizard.data import shapes
from pixelwizard.generation import run
from pixelwizard.io.video import VideoWriter

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
PAPERS = ("README.md", "CHANGELOG.md", *(f"docs/{name}.md" for name in DOCS))
HEREDOC = re.compile(r"^cat > (\S+) <<'END'\n(.*?)^END\n", re.MULTILINE | re.DOTALL)


def section(title: str, text: str = README) -> str:
    """What stands below a heading, up to the next of its level."""
    level = title.split()[0]
    return text.split(f"\n{title}\n", 1)[1].split(f"\n{level} ", 1)[0]


def blocks(language: str, text: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The ``pixelwizard`` lines of all bash blocks, without the files that they write."""
    shell = HEREDOC.sub("", "".join(blocks("bash", text)))
    return [line for line in shell.splitlines() if line.split()[:1] == ["pixelwizard"]]


TOUR = section("## What sets it apart") + section("## Tour")


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A working directory with the tour's files; the run folders that would have been used."""
    monkeypatch.chdir(tmp_path)
    for name in ("LATENTS", "ANCHORS"):
        (tmp_path / name).mkdir()
    for name, content in HEREDOC.findall(README):
        (tmp_path / name).write_text(content)
    anchor = tmp_path / "outputs" / "look" / "videos" / "cross.anchor.mp4"
    anchor.parent.mkdir(parents=True)
    with VideoWriter(anchor, 256, 160, VideoSettings()) as writer:
        writer.write(np.zeros((5, 160, 256, 3), np.uint8))
    folders: list[Path] = []

    def launch(folder: Path, ranks: int = 1) -> int:
        folders.append(folder)
        return 0

    monkeypatch.setattr("pixelwizard.launch.launch.launch", launch)
    for command in (run, train):
        monkeypatch.setattr(command, "require_weights", lambda *parts: None)
    monkeypatch.setattr(run, "find_videos", lambda *_: [])
    trusted = replace(generate.COMMAND, finished=lambda config: True)
    monkeypatch.setattr(generate, "COMMAND", trusted)
    any_videos = replace(evaluate.COMMAND, check=lambda *_: None)
    monkeypatch.setattr(evaluate, "COMMAND", any_videos)
    monkeypatch.setattr(sweeping, "launcher_of", lambda *_: ledger.in_turn)
    monkeypatch.setattr(sweeping, "run_search", lambda folder, *_: launch(folder))
    for command in (plan, compare):
        idle = replace(command.COMMAND, check=lambda *_: None, run=lambda *_: 0)
        monkeypatch.setattr(command, "COMMAND", idle)
    return folders


@pytest.mark.parametrize("line", commands(TOUR))
def test_every_command_of_the_tour_is_accepted(nothing_runs: list[Path], line: str) -> None:
    words = shlex.split(line)[1:]
    assert main(words) == 0
    assert bool(nothing_runs) is ("--cfg" not in words and not {"plan", "compare"} & set(words))


@pytest.mark.parametrize(
    "line",
    [line for page in ("parallel", "training") for line in commands(DOCS[page])],
)
def test_every_command_about_devices_and_training_is_accepted(
    nothing_runs: list[Path], line: str
) -> None:
    assert main(shlex.split(line)[1:]) == 0


def test_the_tour_shows_every_kind_of_override() -> None:
    tour = "\n".join(commands(TOUR))
    for kind in ("--prompt", "prompts=", "schedule=", "schedule.timesteps=", "seed=", " -m "):
        assert kind in tour
    assert {line.split()[1] for line in tour.splitlines() if " train " in line} == {"train"}


def test_repeating_the_sweep_of_the_tour_runs_nothing(nothing_runs: list[Path]) -> None:
    (line,) = (line for line in commands(TOUR) if "sweep_dir=" in line)
    assert main(shlex.split(line)[1:]) == 0 and len(nothing_runs) == 3
    assert main(shlex.split(line)[1:]) == 0 and len(nothing_runs) == 3


def test_the_message_of_missing_weights_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (shown,) = blocks("console", DOCS["weights"])
    command, message = shown.split("\n", 1)
    assert main(shlex.split(command)[2:]) == 2
    assert capsys.readouterr().err.replace(f"{tmp_path}/", "").split() == message.split()


def test_an_agent_of_wandb_can_run_the_sweep_of_the_page(nothing_runs: list[Path]) -> None:
    (text,) = (block for block in blocks("yaml", DOCS["configuration"]) if "program:" in block)
    sweep = yaml.safe_load(text)
    sent = {"q_uniform": 3.0, "uniform": 2.5}  # an agent sends whole numbers like this
    chosen = {
        name: known.get(
            "value", known.get("values", [sent[known.get("distribution", "uniform")]])[-1]
        )
        for name, known in sweep["parameters"].items()
    }
    Path("prompts.csv").write_text("text\na\n")
    command = {"args": {name: {"value": value} for name, value in chosen.items()}}
    known = create_sweep_command_args(command)
    words = [
        word
        for part in sweep["command"]
        for word in (known[part[2:-1]] if part.startswith("${") else [part])
    ]
    assert words[0] == sweep["program"] and "schedule.steps=3.0" in words
    assert main(words[1:]) == 0
    config = load(nothing_runs[-1] / "config.yaml")
    assert (config.schedule.steps, config.schedule.shift, config.seed) == (3, 2.5, 2)


def groups_of_the_readme() -> dict[str, list[str]]:
    """Group -> [tasks, options] of the table."""
    table = [line for line in DOCS["configuration"].splitlines() if line.startswith("| `")]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return {group.strip("`"): [tasks, options] for group, tasks, options in cells}


def test_the_table_has_every_group_and_its_tasks() -> None:
    table = groups_of_the_readme()
    owners = {group: names.split(", ") for group, (names, _) in table.items()}
    for task in TASKS:
        assert [group for group in table if task in owners[group]] == tasks.groups(task)


@pytest.mark.parametrize("group", list(groups_of_the_readme())[:-1])
def test_the_table_has_every_option_and_the_default(group: str) -> None:
    names, options = groups_of_the_readme()[group]
    assert sorted(re.findall(r"`([^`]+)`", options)) == tasks.options(group)
    for task in set(names.split(", ")) - {"plan"}:  # it is for the full size
        roots = yaml.safe_load((ROOT / "conf" / f"{task}.yaml").read_text())["defaults"]
        (default,) = (item[group] for item in roots if isinstance(item, dict) and group in item)
        assert re.findall(r"\*\*`([^`]+)`\*\*", options) == [default]


def test_the_keys_worth_knowing_exist() -> None:
    keys = DOCS["configuration"].split("Keys worth knowing:")[1].split("\n\n")[0]
    known: set[str] = {"sweep_dir", "[2,3]", *CODECS, "auto", "seamless", "tiled"}
    for task in TASKS:
        known |= dotted(to_plain(compose(task, [])[0].config))
    assert set(re.findall(r"`([^`]+)`", keys)) <= known


def dotted(values: object, prefix: str = "") -> set[str]:
    """Every dotted key of nested dictionaries."""
    if not isinstance(values, dict):
        return {prefix}
    inner = (dotted(item, f"{prefix}.{name}" if prefix else name) for name, item in values.items())
    return {prefix}.union(*inner)


def test_the_limits_name_the_words_of_the_miniature() -> None:
    rows = re.findall(r"^  \| (\w+) \| (.+) \|$", DOCS["limits"], re.MULTILINE)
    words = {slot: tuple(listed.split(", ")) for slot, listed in rows if slot != "slot"}
    assert words == {
        "colour": tuple(shapes.COLOURS),
        "shape": shapes.SHAPES,
        "motion": shapes.MOTIONS,
        "background": tuple(shapes.BACKGROUNDS),
    }


@pytest.mark.parametrize("name", PAPERS)
def test_every_file_that_a_paper_points_to_exists(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_picture_of_the_pipeline_has_the_shapes_of_the_latents() -> None:
    picture = (ROOT / "docs" / "pipeline.svg").read_text(encoding="utf-8")
    for words in ([], ["backbone=wan2_2_ti2v_5b", "resolution=2k"]):
        config = compose("generate", words)[0].config
        assert isinstance(config, GenerateConfig)
        for geometry in (config.resolution.anchor_geometry, config.resolution.geometry):
            shape = (config.backbone.dit.in_dim, *geometry.latent_grid)
            assert f">{'×'.join(map(str, shape))}<" in picture


def test_the_tree_of_the_architecture_names_every_room() -> None:
    (tree,) = blocks("text", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    inside = tree.split("pixelwizard/\n", 1)[1].split("\nconf/", 1)[0]
    named = set(re.findall(r"^  (\w+)", inside, re.MULTILINE))
    rooms = {path.stem for path in (ROOT / "pixelwizard").iterdir() if not path.match("__*")}
    assert named == rooms


def test_every_experiment_is_explained_and_its_command_composes(nothing_runs: list[Path]) -> None:
    text = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    shipped = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    rows = re.findall(r"^\| `(\w+)` .*\| `(pixelwizard [^`]+)` \|", text, re.MULTILINE)
    assert {name for name, _ in rows} == shipped
    for name, line in rows:
        assert f"experiments={name}" in line
        assert main(shlex.split(line)[1:]) == 0
