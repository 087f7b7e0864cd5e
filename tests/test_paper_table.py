"""A paper's table: a row per arm, one recipe a column, what is missing says why."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from comparable import make_run, make_sweep
from test_evaluate import shape_clip, write
from wandb_files import history

from pixelwizard.cli.main import main
from pixelwizard.comparison import table_files as files
from pixelwizard.comparison.scored import Scored, Value
from pixelwizard.comparison.table import Table, make_table
from pixelwizard.config.evaluate import LayoutSettings, TableConfig
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.evaluation.files import identity


def value(number: float, recipe: str = "clip/x", more: bool = True, spread: float = 0.0) -> Value:
    ends = number - spread, number + spread
    return Value(number, *ends, f"{recipe}/n=8", recipe, 8, more)


ROWS = [
    Scored("euler_4", {"clip": value(30.0, spread=1.5), "niqe": value(4.0, "niqe/y", False)}),
    Scored("shortcut & co", {"clip": value(31.0), "niqe": value(4.5, "niqe/y", False)}),
    Scored("other", {"clip": value(50.0, "clip/z")}, {"niqe": "a video is too small; enlarge it"}),
]
COLUMNS = {"clip": "CLIP", "niqe": "NIQE", "dover": "DOVER"}


def table(cited: Path | None = None) -> Table:
    layout = LayoutSettings(COLUMNS)
    return make_table(TableConfig(layout=layout, cited=[str(cited)] if cited else []), ROWS, [])


def test_the_best_of_a_column_is_bold_either_way() -> None:
    text = files.to_markdown(table())
    assert "**31**" in text and "**4**" in text and "30 [28.5, 31.5]" in text
    assert r"\textbf{31}" in files.to_latex(table()) and "<b>4</b>" in files.to_html(table())
    assert "CLIP ↑" in text and "NIQE ↓" in text


def test_what_is_not_there_says_why_and_is_not_dropped() -> None:
    text = files.to_markdown(table())
    assert "n/a (a video is too small)" in text and "n/a (not among its scores)" in text
    assert "(a) not among its scores" in files.to_text(table())
    assert "n/a$^{c}$" in files.to_latex(table())


def test_a_column_has_one_recipe() -> None:
    made = table()
    assert "n/a (another recipe: clip/z/n=8)" in files.to_markdown(made)
    (note,) = made.notes
    assert "other by clip/z/n=8, the other rows by clip/x; score all rows alike" in note
    assert note in files.to_text(made) and note in files.to_html(made)
    assert f"{note}. " in files.to_latex(made)
    for write_table in (files.to_text, files.to_markdown, files.to_latex, files.to_html):
        assert "50" not in write_table(made)
    cells = {(cell["row"], cell["score"]): cell for cell in files.flat(made)}  # as W&B gets them
    assert cells["other", "clip"]["value"] is None and "50" not in files.to_csv(made)


def test_a_column_of_cited_rows_alone_has_one_recipe(tmp_path: Path) -> None:
    for name in ("first", "second"):
        rows = f"rows:\n  {name}: {{dover: 70.0}}\n"
        (tmp_path / name).write_text(f"source: {name}\nrecipes: {{dover: {name}}}\n{rows}")
    config = TableConfig(
        layout=LayoutSettings(COLUMNS), cited=[str(tmp_path / n) for n in ("first", "second")]
    )
    made = make_table(config, ROWS, [])
    assert [cells[2].text for _, cells in made.cited.values()] == [
        "70",
        "n/a (another recipe: second)",
    ]
    assert "- DOVER: `first`, N = not stated" in files.to_markdown(made)


def test_cited_rows_are_apart_with_their_source(tmp_path: Path) -> None:
    file = tmp_path / "paper.yaml"
    file.write_text(
        "source: A paper, table 2\nrecipes: {niqe: niqe/other}\n"
        "rows:\n  Theirs: {clip: 99.0, niqe: 1.0}\n"
    )
    text = files.to_markdown(table(file))
    (line,) = (line for line in text.splitlines() if line.startswith("| Theirs"))
    assert "Theirs (cited: A paper, table 2)" in line and "99†" in line and "**" not in line
    assert "n/a (another recipe: niqe/other)" in line and "n/a (not in the source)" in line
    latex = files.to_latex(table(file))
    assert latex.count(r"\midrule") == 2 and "99\\dag{}" in latex
    rows = list(csv.DictReader(io.StringIO(files.to_csv(table(file)))))
    assert [row["source"] for row in rows if row["row"] == "Theirs"] == ["A paper, table 2"] * 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: {}", "must have source: TEXT and rows"),
        ("source: x\nrows: {a: 3}", "rows.a must be"),
        ("source: x\nrows: [a]", "rows must be {NAME: ...}, not "),
        ("source: x\nrecipes: k345\nrows: {}", "recipes must be {NAME: ...}, not k345"),
        ("source: x\nrows: {euler_4: {clip: 1}}", "another row is called euler_4; rename it there"),
        ("source: x\nrows: {a: {clip: much}}", "rows.a.clip"),
        ("source: x\nrows: {}\nyear: 2026", "year is none of source, rows, recipes"),
        ("source: [", "paper.yaml is not YAML"),
    ],
)
def test_a_file_of_cited_rows_that_is_none_is_one_sentence(
    text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "paper.yaml").write_text(text)
    with pytest.raises(ValueError) as refused:
        table(tmp_path / "paper.yaml")
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_cited_score_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("source: x\nrows: {a: {clip: 1, hdmse: 2, vmaf: 3}}")
    made = table(tmp_path / "paper.yaml")
    assert "paper.yaml cites scores that have no column here: hdmse, vmaf" in made.notes


def test_names_survive_latex_and_html() -> None:
    assert r"euler\_4" in files.to_latex(table()) and r"shortcut \& co" in files.to_latex(table())
    assert "shortcut &amp; co" in files.to_html(table())


def cells(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads(capsys.readouterr().out)["cells"]
    return {(cell["row"], cell["score"]): cell for cell in found}


def test_a_sweep_and_a_folder_are_scored_alike_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_sweep(tmp_path / "sweep", seeds=(0, 1))
    for seed in range(2):
        write(tmp_path / "clips" / f"clip{seed}.mp4", shape_clip(seed))
    words = ["table", "sweep", "clips", "out=paper", "tracker=none", "format=json"]
    words += ["metrics.clip=null", "metrics.image=null"]
    assert main([*words, "layout=all"]) == 0
    found = cells(capsys)
    assert {row for row, _ in found} == {"shortcut4", "euler4", "euler8", "unipc50", "clips"}
    of_arm = found["euler4", "hd-mse"]
    assert of_arm["videos"] == 4 and of_arm["recipe"].endswith("n=4")  # two prompts, two seeds
    assert found["clips", "hd-mse"]["value"] is not None
    assert found["euler4", "seconds"]["value"] == pytest.approx(0.405)
    assert found["clips", "seconds"]["missing"] == "no run made these videos"
    for suffix in ("md", "tex", "csv", "html"):
        assert (tmp_path / "paper" / f"table.{suffix}").is_file()
    monkeypatch.setattr("pixelwizard.evaluation.evaluate.Evaluation", None)
    words[words.index("tracker=none")] = "tracker.mode=offline"
    assert main([*words, "layout=pixelwizard"]) == 0
    again = cells(capsys)
    (offline,) = (tmp_path / "paper" / "wandb").glob("offline-run-*")
    assert history(offline)["table.nrows"] == len(again) == 5 * 9
    assert len([*offline.glob("files/media/html/page*.html")]) == 1
    assert again["euler4", "hd-mse"]["value"] == of_arm["value"]
    assert again["euler4", "dover"]["missing"].startswith("no dover*.csv in a folder results")


def test_a_run_that_has_scores_is_not_scored_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", SamplerSettings(steps=4), 0.02, metrics={"sharpness": 1.0})
    videos = {path.stem: path for path in (tmp_path / "run" / "videos").glob("*.mp4")}
    own = {"name": "sharpness", "value": 1.5, "low": 1.0, "high": 2.0, "recipe": "sharpness/n=2"}
    own |= {"videos": 2, "higher_is_better": True}
    scores = {"set": [own], "recipes": {}, "skipped": {}, "of": identity(run, videos)}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(scores))
    monkeypatch.setattr("pixelwizard.evaluation.evaluate.Evaluation", None)
    assert main(["table", "run", "layout=all", "tracker=none", "format=json"]) == 0
    assert cells(capsys)["run", "sharpness"]["value"] == 1.5


def test_mistakes_of_a_table_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "a" / "run", SamplerSettings(steps=4), 0.02)
    make_run(tmp_path / "b" / "run", SamplerSettings(steps=4), 0.02)
    for words, said in (
        ([], "runs is missing"),
        (["nowhere"], "nowhere is not a folder"),
        (["empty"], "empty holds no video"),
        (["a/run", "cited=[none.yaml]"], "none.yaml is not a file"),
        (["a/run", "layout=papers"], "layout=papers"),
        (["a/run", "metrics=none"], "metrics=none leaves nothing for a table"),
        (["a/run", "tracker=csv"], "tracker=csv records no table; nearest: wandb"),
    ):
        assert main(["table", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error and "\n" not in error, error


def test_a_row_that_cannot_be_scored_costs_itself_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        write(tmp_path / "clips" / f"clip{seed}.mp4", shape_clip(seed))
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.mp4").write_bytes(b"no video at all")
    words = ["table", "clips", "empty", "torn", "reference=clips", "tracker=none", "format=json"]
    assert main([*words, "metrics=real", "metrics.image=null"]) == 0
    made = json.loads(capsys.readouterr().out)
    missing = {(cell["row"], cell["score"]): cell["missing"] for cell in made["cells"]}
    assert not missing["clips", "hd-mse"]
    assert {missing[row, name] for row in ("empty", "torn") for name in ("hd-mse", "seconds")} == {
        "none of its videos can be scored"
    }
    notes = made["notes"]
    assert any(note.startswith("torn: no video can be scored; a.mp4: ") for note in notes)
    assert any(note.startswith("empty: ") and "holds no video" in note for note in notes)
    same = "clips: the reference holds the videos themselves: a distance to it says little"
    assert same in notes and not any("metrics.clip names no network" in note for note in notes)


def test_an_arm_without_a_finished_video_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = make_sweep(tmp_path / "sweep", seeds=(0,)) / "sweep.json"
    jobs = json.loads(ledger.read_text())["jobs"]
    overrides = ["schedule=dpmpp4", "seed=0"]
    jobs["schedule=dpmpp4,seed=0"] = {"status": "failed", "reason": "x", "overrides": overrides}
    ledger.write_text(json.dumps({"jobs": jobs}))
    (tmp_path / "own.yaml").write_text("columns: {seconds: s}\n")
    words = ["table", "sweep", "layout=own.yaml", "tracker=none", "format=json"]
    assert main([*words, "metrics.clip=null", "metrics.image=null"]) == 0
    made = json.loads(capsys.readouterr().out)
    told = {cell["row"]: cell["missing"] for cell in made["cells"]}
    assert told == {
        **dict.fromkeys(("shortcut4", "euler4", "euler8", "unipc50"), ""),
        "dpmpp4": "none of its videos can be scored",
    }
    note = "schedule=dpmpp4,seed=0 is failed (x); only its finished videos are compared"
    assert note in made["notes"]
    assert "dpmpp4: it has no finished video" in made["notes"]


def test_where_rows_have_other_numbers_of_videos_they_are_named() -> None:
    rows = [Scored("few", {"clip": value(1.0)}), Scored("many", {"clip": value(2.0)})]
    rows[0].values["clip"] = replace(value(1.0), videos=3)
    config = TableConfig(layout=LayoutSettings({"clip": "CLIP"}))
    assert make_table(config, rows, []).columns[0].videos == "3 (few), 8 (many)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "layout=[1] must be a group of keys: columns"),
        ("heads: {}", "unknown key 'layout.heads'"),
        ("columns: [", "own.yaml is not YAML"),
    ],
)
def test_a_layout_file_that_is_none_is_one_sentence(
    text: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(text)
    assert main(["table", ".", "layout=own.yaml"]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert main(["table", ".", "layout=other.yaml"]) == 2
    assert "uhr, vbench, or the path of a .yaml file" in capsys.readouterr().err


def test_an_own_layout_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelwizard.cli.compose import compose

    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "layout").mkdir(parents=True)
    (tmp_path / "conf" / "layout" / "own.yaml").write_text("columns: {niqe: Naturalness}\n")
    config = compose("table", ["runs=[.]", "layout=own"])[0].config
    assert config.layout.columns == {"niqe": "Naturalness"}
