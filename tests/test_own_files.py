"""Configuration files of the user's: found, listed, preferred; damaged ones end in a sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pixelwizard import worker
from pixelwizard.cli.compose import compose
from pixelwizard.cli.main import main
from pixelwizard.config import tasks
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.tasks import parse_json, read_yaml


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def composed(*overrides: str) -> Any:
    (job,) = compose("generate", overrides)
    return job.config


def test_an_option_of_ones_own_is_listed_and_chosen(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(place / "conf/schedule/mine.yaml", "solver: euler\nsteps: 7\n")
    write(place / "lab/resolution/small.yaml", "width: 256\nheight: 160\n")
    config = composed("hydra.searchpath=lab", "schedule=mine", "resolution=small")
    assert (config.schedule.steps, config.resolution.width) == (7, 256)
    assert Path(config.run_dir).name.startswith("tiny-small-mine-")
    assert main(["--config-dir", "lab", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "euler8,mine,shortcut2" in shown and "demo_portrait,small" in shown
    assert main(["-cd=lab", "resolution=smal"]) == 2
    assert "small; did you mean small?" in capsys.readouterr().err
    assert "small" not in tasks.options("resolution")


def test_a_name_of_ones_own_wins_and_the_log_of_the_run_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write(place / "conf/resolution/demo.yaml", "width: 256\nheight: 160\n")
    config = composed("run_dir=run")
    assert config.resolution.width == 256 and composed("resolution=720p").replaced == []
    shipped = tasks.shipped() / "resolution" / "demo.yaml"
    assert config.replaced == [f"resolution=demo is {own}, not {shipped}"]
    monkeypatch.setattr(worker, "work_of", lambda config: lambda config, rank: 0)
    write(place / "run/config.yaml", yaml.safe_dump({"task": "generate", "run_dir": "run"}))
    text = (place / "run/config.yaml").read_text() + yaml.safe_dump({"replaced": config.replaced})
    write(place / "run/config.yaml", text)
    assert worker.run(place / "run") == 0
    assert config.replaced[0] in (place / "run/run.log").read_text()
    assert capsys.readouterr() == ("", "")


def test_experiments_are_found_beside_the_groups_too(place: Path) -> None:
    text = "# @package _global_\ndefaults:\n  - override /schedule: mine\nseed: {}\n"
    write(place / "lab/schedule/mine.yaml", "steps: 6\n")
    write(place / "lab/experiments/theirs.yaml", text.format(5))
    write(place / "experiments/train_tiny_detail.yaml", text.format(6))
    lab = "hydra.searchpath=[lab]"
    config = composed(lab, "experiment=theirs")
    assert (config.schedule.steps, config.seed) == (6, 5)
    config = composed(lab, "experiment=[theirs,train_tiny_detail]")
    assert config.seed == 6
    assert composed(lab, "experiments=train_tiny_detail").replaced[0].startswith("experiments=")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("run: {dir: mine}", "hydra.run.dir in a file has no effect; give run_dir on the command"),
        ("verbose: true", "hydra.verbose in a file has no effect; give verbose on the command"),
        ("job: {chdir: true}", "hydra.job.chdir: use run_dir to name a run; a run never"),
    ],
)
def test_what_a_file_says_to_hydra_itself_is_refused(place: Path, said: str, sentence: str) -> None:
    write(place / "experiments/mine.yaml", f"# @package _global_\nhydra:\n  {said}\n")
    with pytest.raises(ConfigError, match=sentence):
        composed("experiment=mine")


def test_a_folder_beside_experiments_that_is_named_like_a_key_is_no_config_group(
    place: Path,
) -> None:
    write(place / "experiments/mine.yaml", "# @package _global_\nseed: 3\n")
    write(place / "videos/clip.yaml", "seed: 4")
    write(place / "data/mine.yaml", "seed: 4")
    assert composed("experiments=mine", "videos=videos").videos == str(place / "videos")
    with pytest.raises(ConfigError, match="mine"):
        compose("train", ["data=mine"])


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("none", "--config-dir=none is not a folder; name one laid out like conf/"),
        ("empty", "--config-dir=empty has no GROUP/NAME.yaml; lay it out like conf/, for example"),
        ("file.yaml", "--config-dir=file.yaml is not a folder"),
    ],
)
def test_a_config_folder_that_is_none_is_refused(place: Path, folder: str, sentence: str) -> None:
    (place / "empty").mkdir()
    write(place / "file.yaml", "a: 1")
    with pytest.raises(ConfigError) as error:
        composed(f"hydra.searchpath={folder}")
    assert sentence in str(error.value)


def test_a_config_folder_far_too_large_is_refused_before_it_is_read(place: Path) -> None:
    write(place / "lab/schedule/mine.yaml", "steps: 4")
    for number in range(1000):
        (place / f"lab/videos/{number}").mkdir(parents=True)
    with pytest.raises(ConfigError, match="lab has over 1000 folders below it"):
        composed("hydra.searchpath=lab")


NINE = ",".join(["{0}"] * 9)
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{NINE.format(f'*a{n - 1}')}]\n" for n in range(1, 12)
)
DAMAGED = {
    BOMB: "has over 50,000 values, aliases counted",
    "a: &a [*a]": "has over 50,000 values, aliases counted",
    "steps: " + "[" * 10_000: "is nested over 64 deep",
    "\n".join(" " * depth + "a:" for depth in range(500)): "is nested over 64 deep",
}


@pytest.mark.parametrize("text", DAMAGED, ids=["bomb", "endless", "brackets", "indents"])
def test_a_file_that_would_grow_without_end_is_refused_at_once(place: Path, text: str) -> None:
    path = write(place / "conf/schedule/bad.yaml", text)
    begun = time.process_time()
    for read in (lambda: composed("schedule=bad"), lambda: read_yaml(path)):
        with pytest.raises(ConfigError) as error:
            read()
        said = str(error.value)
        by_omegaconf = "maximum nesting depth" in said and str(path) in said  # from 2.4 on
        assert by_omegaconf or said.startswith(f"{path} {DAMAGED[text]}")
    assert time.process_time() - begun < 1


def test_a_damaged_file_is_named_where_it_is_used(place: Path) -> None:
    write(place / "conf/schedule/bad.yaml", "steps: [1\n")
    assert composed("schedule=euler8").schedule.steps == 8
    with pytest.raises(ConfigError, match=r"bad.yaml"):
        composed("schedule=bad")
    (place / "conf/schedule/bad.yaml").write_bytes(b"steps: \xff")
    with pytest.raises(ConfigError, match=r"bad.yaml is not UTF-8 text"):
        composed("schedule=bad")


def test_a_damaged_file_that_is_not_used_stops_nothing(place: Path) -> None:
    (place / "conf/schedule").mkdir(parents=True)
    (place / "conf/schedule/bad.yaml").write_bytes(b"steps: \xff")
    write(place / "experiments/results.yaml", BOMB)
    assert composed("schedule=euler8").schedule.steps == 8


GLOBAL = "# @package _global_\n"
CHOICE = GLOBAL + "defaults:\n  - override /schedule: {}\n"


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("conf/schedule/a.yaml", "step: 3", "{}: unknown key 'schedule.step'; did you mean sch"),
        ("conf/schedule/a.yaml", "steps: 0", "{}: schedule.steps=0 must be at least 1"),
        ("conf/schedule/a.yaml", "solver: eulr", "{}: schedule.solver=eulr must be one of"),
        ("conf/schedule/a.yaml", "steps: ${{nope}}", "{}: schedule.steps: Interpolation key"),
        ("conf/schedule/a.yaml", "solver: {{_target_: no.X}}", "{}: schedule.solver._target_=no.X"),
        ("conf/schedule/a.yaml", "defaults: [eulr8]", "{}: schedule=eulr8 must be one of"),
        ("experiments/a.yaml", GLOBAL + "schedul: {{steps: 3}}", "{}: unknown key 'schedul'; did"),
        ("experiments/a.yaml", GLOBAL + "data: {{count: 3}}", "{}: data is a key of train and enc"),
        ("experiments/a.yaml", GLOBAL + "tags: [a]", "{}: tags: "),
        ("experiments/a.yaml", CHOICE.format("eulr8"), "{}: schedule=eulr8 must be one of"),
    ],
)
def test_a_sentence_on_a_key_names_the_users_file_that_sets_it(
    place: Path, file: str, text: str, sentence: str
) -> None:
    write(place / file, text.replace("{{", "{").replace("}}", "}"))
    with pytest.raises(ConfigError) as error:
        composed("schedule=a" if file.startswith("conf") else "experiment=a")
    assert str(error.value).startswith(sentence.format(file))


def test_a_value_of_the_command_line_is_not_said_to_be_a_files(place: Path) -> None:
    write(place / "conf/schedule/a.yaml", "steps: 3")
    with pytest.raises(ConfigError, match=r"^schedule.steps=0 must be"):
        composed("schedule=a", "schedule.steps=0")


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("conf/schedule/a.yaml", "- solver", "a.yaml is a list; it must have keys, like steps: 4"),
        ("conf/schedule/a.yaml", "euler", "a.yaml is a text; it must have keys, like steps: 4"),
        ("experiments/a.yaml", "seed: 3", "a.yaml has keys, so its first line must be # @package"),
    ],
)
def test_a_file_without_keys_or_header_is_refused_by_name(
    place: Path, file: str, text: str, sentence: str
) -> None:
    write(place / file, text)
    with pytest.raises(ConfigError, match=sentence):
        composed("schedule=a" if file.startswith("conf") else "experiment=a")


def test_an_environment_variable_is_a_number_where_one_is_needed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPS", "7")
    write(place / "conf/schedule/a.yaml", "steps: ${oc.env:STEPS}\nguidance: ${oc.env:SCALE,1.5}")
    config = composed("schedule=a")
    assert (config.schedule.steps, config.schedule.guidance) == (7, 1.5)


def test_json_is_plain_or_refused() -> None:
    assert parse_json('{"a": [1, "x", null]}', "it") == {"a": [1, "x", None]}
    for text in ("[" * 100_000, "[" * 65 + "]" * 65):
        with pytest.raises(ConfigError, match="it is nested over 64 deep"):
            parse_json(text, "it")
    with pytest.raises(ConfigError, match="it is not JSON"):
        parse_json("{a", "it")


def test_a_whole_float_is_an_integer(place: Path) -> None:
    config = composed("seed=3.0", "schedule.steps=4.0", "anchor.guided_steps=[0.0,1]")
    assert (config.seed, config.schedule.steps) == (3, 4)
    assert [type(step) for step in config.anchor.guided_steps] == [int, int]
    with pytest.raises(ConfigError, match=r"seed=3.5 must be an integer; nearest: 4"):
        composed("seed=3.5")
    with pytest.raises(ConfigError, match=r"seed=1e\+300 must be an integer$"):
        composed("seed=1e300")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("seed=glob(*)", r"^seed=glob\(\*\) has no value; list them, like seed=A,B"),
        ("seed=range(1000000000)", "a sweep has at most 10,000 jobs; sweep fewer values"),
        ("seed=" + "9" * 5000, "this value cannot be read"),
        ("schedule.timesteps=" + "[" * 1000, "this value cannot be read"),
        ("backbone.dit.num_heads=0", "backbone.dit.num_heads=0 must be at least 1; nearest: 1"),
        ("schedule.steps=1e400", "schedule.steps=inf must be an integer"),
        ("resolution.width=1000000000000", "resolution.width=.* must be at most 16384"),
        ("resolution.frames=400001", "resolution.frames=400001 must be at most 5001"),
    ],
)
def test_a_value_beyond_reason_is_refused_at_once(place: Path, word: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        compose("generate", [word], sweep=True)


def test_a_group_of_ones_own_over_a_part_leaves_the_shipped_names(place: Path) -> None:
    write(place / "conf/attention/near.yaml", "name: window\n")
    assert composed("attention=near").attention == "window"
    assert composed("attention=exact").attention == "exact"
    with pytest.raises(
        ConfigError, match="attention=exat must be one of .*near, .*did you mean exact"
    ):
        composed("attention=exat")
