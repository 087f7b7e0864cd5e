"""A video says how it was made, and is made again from that alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import small_config, write_backbone, write_config

from pixelwizard import worker
from pixelwizard.config.generate import GenerateConfig, StoreSettings
from pixelwizard.config.output import VideoSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target, source_digest
from pixelwizard.generation.replay import changed_versions, provenance_of, repetition
from pixelwizard.io.reading import comment_of
from pixelwizard.io.store import Store
from pixelwizard.io.video import VideoWriter
from pixelwizard.records.run_folder import claim


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[GenerateConfig, list[Path]]:
    """A finished run of two prompts and its videos."""
    folder = tmp_path_factory.mktemp("made")
    config = small_config(write_backbone(folder / "weights"), folder, seed=3)
    assert worker.run(write_config(config)) == 0
    return config, sorted((folder / "run" / "videos").glob("*.mp4"))


def test_a_replayed_video_has_the_same_latents_to_the_bit(
    made: tuple[GenerateConfig, list[Path]], tmp_path: Path
) -> None:
    config, videos = made
    again = repetition(videos[1], str(tmp_path / "again"))
    assert again.prompt == [config.prompt[1]]
    again = replace(again, store=StoreSettings(dir=str(tmp_path / "store")))
    assert worker.run(claim(again, ["pixelwizard"])) == 0
    old = Store(config.store.dir)
    for stage in ("anchor", "detail"):
        (path,) = (tmp_path / "store" / stage).rglob("*.safetensors")
        first = old.load(stage, path.stem)["latent"]  # the same key: the same recipe
        assert torch.equal(first, Store(again.store.dir).load(stage, path.stem)["latent"])


def test_nothing_in_a_video_says_where_to_write(
    made: tuple[GenerateConfig, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, videos = made
    record = provenance_of(videos[0])
    record.config.update({"store": {"dir": "/elsewhere"}, "prompts": "/elsewhere/prompts.txt"})
    record.config.update({"run_dir": "/elsewhere", "search": ["/elsewhere"]})
    monkeypatch.setattr("pixelwizard.generation.replay.provenance_of", lambda _: record)
    monkeypatch.chdir(tmp_path)
    config = repetition(videos[0], None)
    assert "elsewhere" not in repr(config)
    assert Path(config.run_dir).parent == tmp_path / "outputs"


def test_other_weights_or_code_are_refused(
    made: tuple[GenerateConfig, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, videos = made
    record = provenance_of(videos[0])
    monkeypatch.setattr("pixelwizard.generation.replay.provenance_of", lambda _: record)
    record.versions.update({"torch": "1.0"})
    changed = changed_versions(videos[0], repetition(videos[0], None))
    assert [text.split(" -> ")[0] for text in changed] == ["torch 1.0"]
    record.weights.update({"vae": "0" * 64})
    with pytest.raises(ConfigError, match="the weights of vae are not those"):
        repetition(videos[0], None)
    old = replace(record, code_format=0)
    monkeypatch.setattr("pixelwizard.generation.replay.provenance_of", lambda _: old)
    with pytest.raises(ConfigError, match="that computes differently"):
        repetition(videos[0], None)


def test_a_foreign_video_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "foreign.mp4"
    with VideoWriter(path, 64, 32, VideoSettings(), comment="a holiday") as writer:
        writer.write(np.zeros((2, 32, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match="does not say how it was made"):
        provenance_of(path)
    with pytest.raises(ConfigError, match="does not exist"):
        provenance_of(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ConfigError, match="cannot be read as a video"):
        provenance_of(tmp_path / "text.mp4")


SOLVER = """
from pathlib import Path
from pixelwizard.diffusion.solvers.euler import Euler
Path("it-ran").touch()

class Mine(Euler):
    pass
"""
MINE = {"_target_": "mine.Mine"}


@pytest.fixture
def says(
    made: tuple[GenerateConfig, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """A video whose record is changed, in a working directory with a solver of the user's."""
    _, videos = made
    text = comment_of(videos[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "mine.py").write_text(SOLVER)

    def change(changed: Callable[[dict[str, Any]], object] | str) -> Path:
        record = json.loads(text)
        said = changed if isinstance(changed, str) else changed(record) or json.dumps(record)
        monkeypatch.setattr("pixelwizard.io.reading.comment_of", lambda _: said)
        return videos[0]

    yield change
    sys.modules.pop("mine", None)


def test_a_video_that_names_a_class_runs_it_only_where_it_is_trusted(
    says: Callable[..., Path], tmp_path: Path
) -> None:
    video = says(lambda record: record["config"]["schedule"].update(solver=MINE))
    with pytest.raises(ConfigError, match=r"names schedule.solver=mine.Mine, and replay runs no"):
        repetition(video, None)
    assert not (tmp_path / "it-ran").exists()
    config = repetition(video, None, trust=True)
    assert config.schedule.solver == Target("mine.Mine")
    assert config.search == [str(tmp_path)] and (tmp_path / "it-ran").exists()
    assert f"mine.Mine unknown -> {source_digest('mine.Mine')[:8]}" in changed_versions(
        video, config
    )


def test_an_edited_class_is_named_with_both_digests(says: Callable[..., Path]) -> None:
    def edited(record: dict[str, Any]) -> None:
        record["config"]["schedule"].update(solver=MINE)
        record["targets"] = {"schedule.solver": {"class": "mine.Mine", "sha256": "0123456789ab"}}

    video = says(edited)
    config = repetition(video, None, trust=True)
    named = [text for text in changed_versions(video, config) if text.startswith("mine.Mine")]
    assert named == [f"mine.Mine 01234567 -> {source_digest('mine.Mine')[:8]}"]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(config=MINE),
        lambda record: record.update(config=[MINE]),
        lambda record: record.update(prompt=MINE),
        lambda record: record.update(seed="x"),
        lambda record: record.update(seed=1e300),
        lambda record: record.update(seed=-1),
        lambda record: record.update(versions=["a"]),
        lambda record: record.update(weights=None),
        lambda record: record.pop("negative_prompt"),
        lambda record: record["config"].update(backbone=MINE),
        lambda record: record["config"].update(anchor=MINE),
        lambda record: record["config"].update(video={"codec": MINE}),
        lambda record: record["config"]["schedule"].update(solver={"name": ["mine.Mine"]}),
        lambda record: record["config"]["schedule"].update(solver={"_target_": 3}),
        lambda record: record["config"]["schedule"].update(solver=None),
        lambda record: record["config"]["resolution"].update(frames=10**400),
        "[" * 100_000,
        '{"prompt": ' * 900 + "1" + "}" * 900,
        '["prompt", "seed", "config", "weights", "code_format"]',
        "null",
    ],
)
def test_a_hostile_record_ends_in_a_sentence_and_runs_nothing(
    says: Callable[..., Path], tmp_path: Path, change: Any
) -> None:
    with pytest.raises(ConfigError) as error:
        repetition(says(change), None)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "it-ran").exists()
