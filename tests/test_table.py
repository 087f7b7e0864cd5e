"""One reader for every table of videos and prompts, whoever made it and whoever reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.train import DataSettings
from pixelwizard.data.prompts import TAKES, prompts_of, table_of
from pixelwizard.data.table import Table, clip_table, find_videos, read_table, videos_below
from pixelwizard.evaluation.files import find_captions, ids_of, read_captions

TWO = [("a.mp4", "a red circle, moving left"), ("b.mp4", "a blue square")]
"""What every table of ``WRITTEN`` says."""
CSV = 'file,caption\na.mp4,"a red circle, moving left"\nb.mp4,a blue square\n'
WRITTEN = {
    "plain.csv": CSV,
    "hf.csv": CSV.replace("file,caption", "file_name,text"),
    "diffsynth.csv": CSV.replace("file,caption", "video,prompt"),
    "opensora.csv": 'path,text,num_frames\na.mp4,"a red circle, moving left",9\n'
    "b.mp4,a blue square,9\n",
    "shouting.csv": CSV.replace("file,caption", "File Name, PROMPT "),
    "vbench.csv": CSV.replace("file,caption", "video-path,prompt_en"),
    "excel.csv": "\ufefffile;caption\r\na.mp4;a red circle, moving left\r\nb.mp4;a blue square\r\n",
    "mac.csv": CSV.replace("\n", "\r"),
    "columns without a name.csv": CSV.replace("\n", ",,\n"),
    "tabs.csv": "file\tcaption\na.mp4\ta red circle, moving left\nb.mp4\ta blue square\n",
    "tabs.tsv": "file\tcaption\na.mp4\ta red circle, moving left\nb.mp4\ta blue square\n",
    "hf.jsonl": "\n".join(json.dumps({"file_name": f, "text": t}) for f, t in TWO),
    "array.json": json.dumps([{"video": f, "video_prompt": t} for f, t in TWO], indent=1),
    "finetrainers.jsonl": "\n".join(json.dumps({"video": f, "captions": [t]}) for f, t in TWO),
}
CLIPS = ("diffsynth.csv", "array.json", "finetrainers.jsonl")
"""Those whose column is called ``video``: ``generate`` refines its clips."""


def clips(path: Path) -> Table:
    """As ``train`` and ``encode`` read a table."""
    return clip_table(DataSettings(kind="clips", dir=str(path.parent), captions=str(path)))


def run(path: Path) -> GenerateConfig:
    return GenerateConfig(run_dir="run", prompts=str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", WRITTEN)
def test_every_task_reads_the_same_from_every_table(
    tmp_path: Path, name: str, encoding: str
) -> None:
    path = tmp_path / name
    path.write_text(WRITTEN[name].lstrip("\ufeff"), encoding=encoding, newline="")
    assert [(row.video, row.texts[0]) for row in clips(path).rows] == TWO
    rows = table_of(run(path)).rows
    assert [(row.name, row.texts[0]) for row in rows] == [(file[:-4], text) for file, text in TWO]
    assert {bool(row.clip) for row in rows} == {name in CLIPS}
    videos = [tmp_path / file for file, _ in TWO]
    assert find_captions(videos, path) == ({file[:-4]: text for file, text in TWO}, [])


def test_every_column_and_every_form_of_captions_is_a_text_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('file,caption_long,caption\na.mp4,"big, red",red\nb.mp4,blue\n')
    assert [row.texts for row in clips(tmp_path / "t.csv").rows] == [("big, red", "red"), ("blue",)]
    lines = [
        {"file": "a.mp4", "caption": "one"},
        {"file": "b.mp4", "captions": ["one", "two"]},
        {"file": "c.mp4", "captions": {"brief": "one", "detailed": "two"}},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [len(row.texts) for row in clips(tmp_path / "t.jsonl").rows] == [1, 2, 2]
    assert [prompt.text for prompt in prompts_of(run(tmp_path / "t.jsonl"))] == ["one"] * 3


def test_columns_that_are_not_used_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Path,text,caption,num_frames,seed,image\na.mp4,one,two,9,3,x.png\n")
    for read, names in (
        (clips(path), "num_frames, seed, image"),
        (table_of(run(path)), "caption, num_frames"),
        (read_captions(path), "caption, num_frames, seed, image"),
    ):
        for _ in range(2):
            read.tell()
        said = capsys.readouterr().err.splitlines()
        assert said == [f"pixelwizard: {read.notes[0]}"]
        assert said[0].endswith(f"t.csv: columns that are not used: {names}")


def test_rows_without_a_text_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("file,caption\na.mp4,\nb.mp4,b\n,\nc.mp4,  \n\n")
    assert [row.video for row in clips(path).rows] == ["b.mp4"]
    assert clips(path).notes == (
        f"data.captions={path}: rows without a text, skipped: 3, the first in line 2",
    )
    (tmp_path / "t.json").write_text('[{"text": "a"}, {"text": null}, {"text": ""}]')
    assert table_of(run(tmp_path / "t.json")).notes[0].endswith("skipped: 2, the first in entry 2")


def test_only_line_ends_end_a_prompt_and_only_hash_and_space_begin_a_comment(
    tmp_path: Path,
) -> None:
    texts = ["a red circle moves\u2028left", "over\x85a\x0cgray\x1dbackground", "#1 fan waves"]
    path = tmp_path / "p.txt"
    path.write_bytes("\r\n".join(["# two", *texts, "#", ""]).encode())
    assert [prompt.text for prompt in prompts_of(run(path))] == texts
    assert table_of(run(path)).notes == (
        f"prompts={path}: comments (lines that begin with '# '): 2",
    )


def test_the_negative_prompt_is_found_however_it_is_written(tmp_path: Path) -> None:
    for name in ("negative prompt", "Negative_Prompt", "negative-prompt"):
        (tmp_path / "p.csv").write_text(f'"id","prompt","{name}"\n"1","a red circle","blurry"\n')
        assert prompts_of(run(tmp_path / "p.csv"))[0].negative_prompt == "blurry"


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.xlsx", "", "must end in one of .csv, .tsv, .jsonl, .json, .txt"),
        ("t.csv", "", "has no row with a text"),
        ("t.csv", "file,caption\n", "has no row with a text"),
        ("t.csv", "file,caption\na.mp4,\n", "has no row with a text"),
        (
            "t.csv",
            "name,caption\na.mp4,b\n",
            "column for the video .file, .* it has name, c",
        ),
        ("t.csv", "file,words\na.mp4,b\n", "no column for the text .text, .* it has file, words"),
        ("t.csv", "file,caption\n,b\n", "line 2: no file or file_name or filename names its video"),
        ("t.csv", "file,caption\na.mp4,b,c\n", "line 2: more cells than the header"),
        ("t.csv", "file,file,caption\na,b,c\n", "line 1: two columns are called 'file'"),
        ("t.csv", 'file,caption\na.mp4,"b\n', "line 2: not CSV"),
        ("t.csv", '\n\nfile,caption\na.mp4,b\nb.mp4,"b\n', "line 5: not CSV"),
        ("t.csv", "file," + "x" * 200_000, "line 1: not CSV"),
        ("t.txt", "a\n", "no column for the video"),
        (
            "t.jsonl",
            '{"file": 3, "caption": "a"}',
            "the name of a video must be text, not 3",
        ),
        (
            "t.jsonl",
            '{"file": "a", "caption": 3}',
            "a prompt or caption must be text, not 3",
        ),
        ("t.jsonl", '{"file": "a", "text": "\\ud800"}', "line 1: half a character"),
        ("t.jsonl", '{"file": "a", "captions": [1]}', "a prompt or caption must be text"),
        ("t.jsonl", "[1]", "line 1: must be an object"),
        ("t.jsonl", '{"file": "a", "text": "b"}\n{', "line 2: not JSON"),
        ("t.json", '{"file": "a"}', "must be a list of objects"),
        ("t.json", '[{"file": "a", "text": "b"}, 3]', "entry 2: must be an object"),
        ("t.json", "[" * 100_000, "not JSON"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_a_sentence(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=sentence) as refused:
        clips(tmp_path / name)
    assert "\n" not in str(refused.value) and str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize(
    "above", ["sep=;\n", "\n\n", "\n;;\n", '"sep=;"\r\n', "sep=;;\r\n\r\n", "\ufeffsep=;\n"]
)
def test_lines_above_the_header_of_a_spreadsheet_are_passed_over(
    tmp_path: Path, above: str
) -> None:
    (tmp_path / "t.csv").write_text(above + "File;Text\r\na.mp4;a, b\r\n", newline="")
    (row,) = clips(tmp_path / "t.csv").rows
    assert (row.video, row.texts) == ("a.mp4", ("a, b",))
    assert row.place.endswith(f"line {above.count(chr(10)) + 2}")


def test_a_pipe_is_refused_as_it_could_be_read_only_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="is a pipe or device, not a file"):
        clips(tmp_path / "t.csv")


def test_a_table_in_another_encoding_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("file,caption\na.mp4,caf\xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="line 2: not UTF-8 text; save the file as UTF-8"):
        clips(tmp_path / "t.csv")


def test_texts_may_lie_beside_their_videos(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/er/b.MOV", "c.webm", "._a.mp4", "wandb/w.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("a red\ncircle\n")
    (tmp_path / "deep/er/b.txt").write_text("a blue square")
    table = clip_table(DataSettings(kind="clips", dir=str(tmp_path)))
    assert [(row.video, row.texts) for row in table.rows] == [
        ("a.mp4", ("a red circle",)),
        ("deep/er/b.MOV", ("a blue square",)),
    ]
    assert table.notes[0].endswith("videos without a .txt of their name, skipped: 1")
    assert [path.name for path in videos_below(tmp_path)] == ["a.mp4", "c.webm", "b.MOV"]
    captions, _ = find_captions(find_videos(tmp_path, "videos"), None)
    assert captions == {"a": "a red circle", "b": "a blue square"}
    (tmp_path / "a.txt").unlink()
    (tmp_path / "deep/er/b.txt").unlink()
    with pytest.raises(ConfigError, match="no video there has a .txt of its name"):
        clip_table(DataSettings(kind="clips", dir=str(tmp_path)))


def test_captions_find_videos_in_folders_by_as_much_of_their_path_as_they_name(
    tmp_path: Path,
) -> None:
    videos = [tmp_path / "one/x.mp4", tmp_path / "two/y.mp4"]
    (tmp_path / "t.csv").write_text("file,text\none/x.mp4,first\ny.mp4,second\nz.mp4,none\n")
    assert find_captions(videos, tmp_path / "t.csv") == ({"x": "first", "y": "second"}, ["z"])
    with pytest.raises(ConfigError, match="matches no video: its names begin with 'one/x'"):
        find_captions([tmp_path / "other.mp4"], tmp_path / "t.csv")


def test_videos_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    videos = [tmp_path / name for name in ("one/x.mp4", "two/x.mp4", "two/y.mp4")]
    assert ids_of(videos) == ["one/x", "two/x", "y"]
    (tmp_path / "t.csv").write_text("file,text\none/x.mp4,a\ntwo/x.mp4,b\ny.mp4,c\n")
    assert find_captions(videos, tmp_path / "t.csv") == ({"one/x": "a", "two/x": "b", "y": "c"}, [])


def test_a_table_of_prompts_uses_what_a_prompt_has(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("ID;Text;Seed\na1;a red circle; 3.0 \n")
    (row,) = read_table(tmp_path / "p.csv", "prompts", TAKES).rows
    assert (row.id, row.texts, row.seed) == ("a1", ("a red circle",), " 3.0 ")
    assert prompts_of(run(tmp_path / "p.csv"))[0].anchor_seed == 103
