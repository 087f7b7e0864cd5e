"""Prompts: three file formats give the same prompts, seeds follow the rule, slips name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.schema import ConfigError
from pixelwizard.data.prompts import SAFE_ID, Prompt, prompts_of


def read(path: Path, content: str | bytes, **changes: Any) -> list[Prompt]:
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    return prompts_of(GenerateConfig(run_dir="run", prompts=str(path), **changes))


def test_three_formats_give_the_same_prompts(tmp_path: Path) -> None:
    txt = read(tmp_path / "p.txt", "# two clips\n\na red circle, big\r\n  a blue cross  \n")
    jsonl = read(
        tmp_path / "p.jsonl", '{"text": "a red circle, big"}\n\n{"caption": "a blue cross"}\n'
    )
    csv = read(tmp_path / "p.csv", 'prompt,more\n"a red circle, big",x\na blue cross,\n')
    assert txt == jsonl == csv
    assert [prompt.text for prompt in txt] == ["a red circle, big", "a blue cross"]
    assert [prompt.id for prompt in txt] == ["001-a-red-circle-big", "002-a-blue-cross"]


def test_columns_and_keys_set_id_seed_and_negative_prompt(tmp_path: Path) -> None:
    jsonl = read(
        tmp_path / "p.jsonl",
        '{"prompt_id": "x", "prompt": "a", "seed": 5, "negative_prompt": ""}\n'
        '{"id": 7, "text": "b"}',
        negative_prompt="blurry",
    )
    csv = read(
        tmp_path / "p.csv",
        "id,text,seed,negative_prompt\nx,a,5,dark\n7,b,,\n",
        negative_prompt="blurry",
    )
    assert [(p.id, p.negative_prompt) for p in jsonl] == [("x", ""), ("7", "blurry")]
    assert [(p.id, p.negative_prompt) for p in csv] == [("x", "dark"), ("7", "blurry")]
    assert [p.anchor_seed for p in jsonl] == [p.anchor_seed for p in csv] == [105, 200]


def test_seeds_follow_the_reference() -> None:
    prompts = prompts_of(GenerateConfig(run_dir="run", prompt=["a", "b", "c"], seed=7))
    assert [p.anchor_seed for p in prompts] == [107, 207, 307]
    assert [p.detail_seed for p in prompts] == [10007, 10107, 10207]


def test_a_seed_of_its_own_makes_a_prompt_independent_of_its_place(tmp_path: Path) -> None:
    first = read(tmp_path / "a.jsonl", '{"text": "a", "seed": 3}\n{"text": "b"}')[0]
    last = read(tmp_path / "b.jsonl", '{"text": "b"}\n{"text": "a", "seed": 3}')[1]
    assert (first.anchor_seed, first.detail_seed) == (last.anchor_seed, last.detail_seed)
    assert (first.anchor_seed, first.detail_seed) == (103, 10003)


def test_the_negative_prompt_of_the_backbone_is_the_default() -> None:
    backbone = BackboneSettings(negative_prompt="noise")
    assert (
        prompts_of(GenerateConfig("run", backbone=backbone, prompt=["a"]))[0].negative_prompt
        == "noise"
    )
    config = GenerateConfig("run", backbone=backbone, prompt=["a"], negative_prompt="")
    assert prompts_of(config)[0].negative_prompt == ""


def test_without_prompts_four_unseen_captions_run() -> None:
    from pixelwizard.data import shapes

    prompts = prompts_of(GenerateConfig(run_dir="run"))
    assert {prompt.text for prompt in prompts} <= set(shapes.prompts("heldout", 144))
    assert len({prompt.id for prompt in prompts}) == 4


def test_any_text_gets_a_safe_file_name() -> None:
    texts = ["../../etc/passwd", "视频", "a" * 300, "CON", ".hidden", 'x"; rm -rf / #', "ü\u202e"]
    prompts = prompts_of(GenerateConfig(run_dir="run", prompt=texts))
    assert all(SAFE_ID.fullmatch(prompt.id) for prompt in prompts)
    assert [prompt.text for prompt in prompts] == texts


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.txt", "", "has no row with a text"),
        ("p.txt", "# only a comment\n\n", "has no row with a text"),
        ("p.txt", b"good\nb\xffd", "line 2: not UTF-8 text"),
        ("p.txt", b"a\nb\x00c", "line 2: holds a zero byte"),
        ("p.yaml", "{}", "must end in one of .csv, .tsv, .jsonl, .json, .txt"),
        ("p.jsonl", "", "has no row with a text"),
        ("p.jsonl", '{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("p.jsonl", '["a"]', "line 1: must be an object"),
        ("p.jsonl", '{"txt": "a"}', "no column for the text (text, prompt, caption"),
        ("p.jsonl", '{"text": " "}', "has no row with a text"),
        ("p.jsonl", '{"text": 3}', "line 1: a prompt or caption must be text, not 3"),
        ("p.jsonl", '{"text": "a", "seed": -1}', "line 1: seed=-1 must be an integer from 0"),
        ("p.jsonl", '{"text": "a", "seed": 1.5}', "line 1: seed=1.5 must be an integer"),
        ("p.jsonl", '{"text": "a", "seed": true}', "line 1: seed=true must be an integer"),
        ("p.jsonl", '{"text": "a", "negative_prompt": 3}', "negative_prompt=3 must be text"),
        ("p.jsonl", '{"text": "a", "id": "../x"}', "id=../x is not a safe file name"),
        ("p.jsonl", '{"text": "a", "id": "/etc/x"}', "nearest: etc-x"),
        ("p.jsonl", '{"text": "a", "id": ""}', "is not a safe file name"),
        ("p.jsonl", '{"text": "a", "id": "x.anchor"}', "not ending in .anchor"),
        ("p.jsonl", '{"text": "a", "id": [1]}', "id=[1] must be text"),
        (
            "p.jsonl",
            '{"text": "a", "id": "x"}\n{"text": "b", "id": "X"}',
            "used by rows 1 and 2",
        ),
        ("p.csv", "", "has no row with a text"),
        ("p.csv", "words\na\n", "it has words"),
        ("p.csv", "text\na\nb, c\n", "line 3: more cells than the header"),
        ("p.csv", "id,text\nx,\n", "has no row with a text"),
        ("p.csv", 'text\n"a\n', "line 2: not CSV"),
        ("p.csv", "text,seed\na,abc\n", "line 2: seed=abc must be an integer"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path / name, content)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        prompts_of(GenerateConfig(run_dir="run", prompts=str(tmp_path / "none.txt")))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        prompts_of(GenerateConfig(run_dir="run", prompts=str(tmp_path / "folder.txt")))


@pytest.mark.parametrize("text", ["", "  \n", "\udcff"])
def test_an_empty_or_broken_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--prompt number 2 is"):
        prompts_of(GenerateConfig(run_dir="run", prompt=["good", text]))
