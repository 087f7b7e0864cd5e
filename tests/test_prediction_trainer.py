"""Lightning's own doors in ``generate``: one Trainer, its arguments, callbacks and loggers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import RichProgressBar
from small import small_config, write_backbone, write_config

from pixelwizard import worker
from pixelwizard.cli.compose import compose
from pixelwizard.config.generate import GenerateConfig
from pixelwizard.config.output import TrackerSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.targets import Target
from pixelwizard.config.trainer import PredictionSettings, lightning_trainer
from pixelwizard.generation.run import _report


class Watching(Callback):
    """Notes the trainers, loops and loggers that it sees; may fail in a stage."""

    def __init__(self, file: str, fails_in: str = "") -> None:
        self.file, self.fails_in = Path(file), fails_in

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, *_: object) -> None:
        if pl_module.name == self.fails_in:
            raise RuntimeError("no more\nink")
        line = [id(trainer), pl_module.name, len(trainer.loggers)]
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.fixture
def config(tmp_path: Path) -> GenerateConfig:
    return small_config(write_backbone(tmp_path / "weights"), tmp_path)


def watched(config: GenerateConfig, tmp_path: Path, **arguments: str) -> GenerateConfig:
    given = {"file": str(tmp_path / "seen"), **arguments}
    part = Target("test_prediction_trainer.Watching", given)
    return replace(config, callbacks={"mine": part})


def states(config: GenerateConfig) -> list[str]:
    found = json.loads((Path(config.run_dir) / "status.json").read_text())
    return [state["state"] for state in found.values()]


def test_one_trainer_serves_all_loops_with_callbacks_loggers_and_one_profile(
    config: GenerateConfig, tmp_path: Path
) -> None:
    config = replace(
        watched(config, tmp_path),
        tracker=TrackerSettings(kind="csv"),
        trainer=PredictionSettings(profiler="simple"),
    )
    assert worker.run(write_config(config)) == 0
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert [name for _, name, _ in seen] == ["text", "anchor", "detail", "decode"] * 2
    assert len({trainer for trainer, _, _ in seen}) == 1 and {count for *_, count in seen} == {1}
    with open(Path(config.run_dir) / "csv" / "metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert (Path(config.run_dir) / "run.log").read_text().count("Profiler Report") == 1


@pytest.mark.parametrize("arguments", [{"limit_predict_batches": 1}, {"fast_dev_run": True}])
def test_a_limit_makes_the_first_prompts_and_says_what_is_left(
    config: GenerateConfig, capfd: pytest.CaptureFixture[str], arguments: dict[str, Any]
) -> None:
    limited = replace(config, trainer=PredictionSettings(arguments=arguments))
    assert worker.run(write_config(limited)) == 0
    assert states(config) == ["done", "pending"]
    assert "trainer makes 1 of 2 prompts; the others wait" in capfd.readouterr().err
    assert worker.run(write_config(config)) == 0
    assert states(config) == ["done", "done"]


def test_a_callback_that_raises_is_named_and_what_was_made_is_kept(
    config: GenerateConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = watched(config, tmp_path, fails_in="detail")
    assert worker.run(write_config(failing)) == 3
    said = "pixelwizard: callbacks.mine failed (no more ink); everything finished is kept\n"
    assert capfd.readouterr().err.endswith(said)
    assert worker.run(write_config(config)) == 0


def test_arguments_of_the_trainer_are_read_from_the_command_line() -> None:
    (job,) = compose("generate", ["trainer.limit_predict_batches=0.5", "trainer.profiler=simple"])
    assert job.config.trainer.limited(10) == 5 and job.config.trainer.profiler == "simple"
    for word, said in (
        ("trainer.max_steps=3", "trainer.max_steps is for train; generate takes trainer.bench"),
        ("trainer.limit_predict_batch=3", "did you mean trainer.limit_predict_batches"),
        ("trainer.limit_predict_batches=1.5", "must be a number of prompts or a share"),
        ("trainer.limit_predict_batches=-1", "=-1 must be a number of prompts or a share"),
        ("trainer.fast_dev_run=-1", "trainer.fast_dev_run=-1 must be at least 0; nearest: 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            compose("generate", [word])


def test_a_whole_float_is_a_number_of_prompts() -> None:
    for word in ("trainer.limit_predict_batches=2.0", "trainer.fast_dev_run=2.0"):
        (job,) = compose("generate", [word])
        assert job.config.trainer.limited(10) == 2


def test_a_callback_that_the_trainer_refuses_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"trainer: Lightning refuses its arguments \(.*RichPro"):
        lightning_trainer(enable_progress_bar=False, callbacks=[RichProgressBar()])


def test_only_videos_that_are_there_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, waiting = tmp_path / "a.mp4", tmp_path / "b.mp4"
    made.touch()
    _report(tmp_path, {"a": made, "b": waiting}, {})
    assert capsys.readouterr().out.splitlines() == [str(tmp_path), str(made)]
