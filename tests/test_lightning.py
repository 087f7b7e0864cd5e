"""Lightning's own doors in a training: its Trainer's arguments, callbacks, loggers, optimizers."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import small_training, write_backbone

from pixelwizard.cli.compose import compose
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.output import TrackerSettings
from pixelwizard.config.schema import ConfigError, to_plain
from pixelwizard.config.targets import Target
from pixelwizard.config.tasks import from_plain
from pixelwizard.config.train import CheckpointSettings, OptimizerSettings, TrainConfig
from pixelwizard.config.trainer import Duration, TrainerSettings
from pixelwizard.records.run_folder import WorkStopped
from pixelwizard.training.train import make_module, train

CALLBACKS = "lightning.pytorch.callbacks"
OWN = """
import torch
from lightning.pytorch.callbacks import Callback
from pixelwizard.data.batches import Source, joined

class Fails(Callback):
    def __init__(self, at=2):
        self.at = at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.at:
            raise ZeroDivisionError("by nothing")

class Noise(Source):
    identity = "noise"

    def __init__(self, count=6):
        self.count = count

    def size(self, step):
        return self.count

    def batch(self, rows, draw):
        one = {"text": torch.zeros(3, 16), "empty": torch.zeros(1, 16), "caption": "a"}
        return joined([{"latent": torch.randn(4, 2, 2, 4), **one} for _ in rows])

class Ends(Noise):
    def batch(self, rows, rng):
        raise IndexError("no more rows")

class Mute(Noise):
    def batch(self, rows, rng):
        return {"video": [torch.zeros(1, 3, 5, 32, 64)] * len(rows)}

class Crooked(Noise):
    def batch(self, rows, rng):
        return {"video": [torch.zeros(1, 3, 5, 40, 64)] * len(rows), "caption": ["a"] * len(rows)}

class Stuck(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("stuck")
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the trainings of this file share."""
    return tmp_path_factory.mktemp("latents")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's, new for every test."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return name


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def with_trainer(config: TrainConfig, **arguments: Any) -> TrainConfig:
    """A configuration with other arguments of the Trainer, read back from its plain values."""
    plain = to_plain(config)
    return from_plain({**plain, "trainer": {**plain["trainer"], **arguments}})  # type: ignore[no-any-return]


def test_callbacks_profiler_and_a_second_logger_do_what_lightning_says(
    backbone: BackboneSettings, tmp_path: Path, latents: Path
) -> None:
    """Held-out loss falls, so that mode=max ends the training after one that is no better."""
    early = Target(
        f"{CALLBACKS}.EarlyStopping", {"monitor": "held_out", "mode": "max", "patience": 1}
    )
    best = Target(
        f"{CALLBACKS}.ModelCheckpoint", {"monitor": "held_out", "filename": "best-{step}"}
    )
    profiler = Target("lightning.pytorch.profilers.SimpleProfiler", {"filename": "profile"})
    config = small_training(backbone, tmp_path / "run", latents, "anchor")
    config = replace(
        config,
        callbacks={
            "early": early,
            "best": best,
            "rates": Target(f"{CALLBACKS}.LearningRateMonitor", {"logging_interval": "step"}),
        },
        checkpoint=CheckpointSettings(every=1),
        trainer=replace(config.trainer, profiler=profiler, max_steps=50),
        tracker=TrackerSettings(
            kind="csv", logger=Target("lightning.pytorch.loggers.CSVLogger", {"version": "mine"})
        ),
    )
    assert train(config) == 0
    rows = table(tmp_path / "run/log.csv")
    held_out = [float(row["held_out"]) for row in rows if row["held_out"]]
    assert len(held_out) == 2 and held_out[1] < held_out[0]
    assert train(config) == 0 and table(tmp_path / "run/log.csv") == rows  # it has ended
    assert any(row["lr-MuonAdamW/pg1"] for row in rows)
    assert [path.name for path in (tmp_path / "run").rglob("best-*")] == ["best-step=2.ckpt"]
    assert "run_training_epoch" in (tmp_path / "run/fit-profile.txt").read_text()
    for name in ("csv", "lightning_logs/mine"):
        (found,) = (tmp_path / "run").glob(f"{name}/metrics.csv")
        assert [row["held_out"] for row in table(found) if row["held_out"]]


def test_fast_dev_run_trains_one_step_and_leaves_no_state(
    backbone: BackboneSettings, tmp_path: Path, latents: Path
) -> None:
    config = small_training(backbone, tmp_path, latents, "anchor")
    assert train(with_trainer(config, fast_dev_run=True)) == 0
    assert not (tmp_path / "export").exists()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_limited_epochs_go_on_with_the_data(
    backbone: BackboneSettings, tmp_path: Path, latents: Path
) -> None:
    losses = []
    for name, arguments in {"whole": {}, "limited": {"limit_train_batches": 2}}.items():
        config = small_training(backbone, tmp_path / name, latents, "anchor")
        assert train(with_trainer(config, **arguments)) == 0
        rows = table(tmp_path / name / "log.csv")
        losses.append([row["loss"] for row in rows if row["loss"]])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("at, error, kept", [(4, WorkStopped, 3), (2, ConfigError, None)])
def test_a_callback_that_raises_is_named_and_the_last_state_stays(
    backbone: BackboneSettings,
    tmp_path: Path,
    latents: Path,
    own: str,
    at: int,
    error: Any,
    kept: Any,
) -> None:
    config = small_training(backbone, tmp_path / "run", latents, "anchor")
    config = replace(config, callbacks={"mine": Target(f"{own}.Fails", {"at": at})})
    with pytest.raises(error) as failed:
        train(config)
    stays = f"the state of step {kept} is kept" if kept else "nothing is kept yet"
    assert str(failed.value) == f"callbacks.mine failed at step {at} (by nothing); {stays}"
    states = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert states == ([f"step-{kept:08d}.ckpt"] if kept else [])


@pytest.mark.parametrize(
    ("part", "name", "sentence"),
    [
        ("data", "Ends", "data={}.Ends failed at step 0 (IndexError: no more rows; run.log has"),
        ("data", "Mute", "data={}.Mute: its examples have no caption; the anchor network needs"),
        ("data", "Crooked", "data={}.Crooked: the video of an example is impossible: height=40 is"),
        ("optimizer", "Stuck", "optimizer={}.Stuck failed at step 0 (RuntimeError: stuck; run.log"),
    ],
)
def test_a_class_of_the_users_that_raises_in_a_training_is_named(
    backbone: BackboneSettings,
    tmp_path: Path,
    latents: Path,
    own: str,
    part: str,
    name: str,
    sentence: str,
) -> None:
    config = small_training(backbone, tmp_path / "run", latents, "anchor")
    arguments = {"lr": 0.1} if part == "optimizer" else {}
    target = Target(f"{own}.{name}", arguments)
    config = replace(config, **{part: replace(getattr(config, part), target=target)})
    with pytest.raises(ValueError) as failed:
        train(replace(config, data=replace(config.data, held_out=2)))
    assert str(failed.value).startswith(sentence.format(own))


def test_accumulation_that_changes_by_epochs_is_refused(
    backbone: BackboneSettings, tmp_path: Path, latents: Path
) -> None:
    config = small_training(backbone, tmp_path, latents, "anchor")
    scheduler = Target(f"{CALLBACKS}.GradientAccumulationScheduler", {"scheduling": {0: 2}})
    with pytest.raises(ConfigError, match="use trainer.accumulate_grad_batches"):
        replace(config, callbacks={"mine": scheduler}).check()


def test_an_optimizer_of_torch_trains_with_the_schedule_of_rates(
    backbone: BackboneSettings, tmp_path: Path, latents: Path
) -> None:
    config = small_training(backbone, tmp_path, latents, "anchor")
    optimizer = OptimizerSettings(
        target=Target("torch.optim.AdamW", {"lr": 1e-3}), warmup=2, decay=0.0
    )
    assert train(replace(config, optimizer=optimizer)) == 0
    rates = [float(row["lr"]) for row in table(tmp_path / "log.csv") if row["lr"]]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3, 1e-3, 1e-3], rel=1e-4)


def test_a_source_of_the_users_has_its_examples_split_by_the_seed(
    backbone: BackboneSettings, tmp_path: Path, own: str
) -> None:
    config = small_training(backbone, tmp_path, tmp_path, "anchor")
    target = Target(f"{own}.Noise", {"count": 6})
    splits = []
    for seed in (0, 0, 1):
        data = replace(config.data, target=target, held_out=2)
        examples = make_module(replace(config, data=data, seed=seed)).open_data()
        splits.append(examples.shown.rows)  # type: ignore[union-attr]
        batch = next(iter(examples.batches(0, 0, 1)))
        assert batch["latent"].shape == (2, 4, 2, 2, 4)
    assert splits[0] == splits[1] != splits[2] and len(splits[0]) == 2


def test_keys_of_lightning_reach_the_trainer_from_the_command_line() -> None:
    words = [
        "trainer.limit_val_batches=3",
        "trainer.profiler=simple",
        "trainer.max_time=00:01:00:00",
    ]
    words += ["optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1", "optimizer.warmup=7"]
    words += ["callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: loss}"]
    (job,) = compose("train", [*words, "run_dir=run"])
    trainer, optimizer = job.config.trainer, job.config.optimizer
    assert trainer.keywords("run") == {"profiler": "simple", "limit_val_batches": 3}
    assert trainer.minutes == 60
    assert optimizer.target == Target("torch.optim.SGD", {"lr": 0.1}) and optimizer.warmup == 7
    assert list(job.config.callbacks) == ["stop"]
    assert from_plain(to_plain(job.config)) == job.config


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val is set by optimizer.clip"),
        ("trainer.default_root_dir=a", "trainer.default_root_dir is set by run_dir; use"),
        (
            "trainer.max_minutes=3",
            "is set by trainer.max_time, like trainer.max_time={minutes",
        ),
        ("trainer.log_every=3", "is set by trainer.log_every_n_steps"),
        ("trainer.limit_val_batch=3", "did you mean trainer.limit_val_batches"),
        ("trainer.limit_val_batches=few", "=few must be what Lightning's Trainer takes"),
        ("trainer.max_time=soon", "trainer.max_time=soon must be DD:HH:MM:SS"),
        ("trainer.max_steps=0", "trainer.max_steps=0 must be at least 1; nearest: 1"),
        ("trainer.profiler=simpel", "did you mean simple"),
        ("optimizer._target_=torch.nn.Linear", "must be a subclass of torch.optim.optimizer.Opt"),
        ("callbacks.a={_target_: os.path}", "callbacks.a._target_=os.path must be a subclass"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(word: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose("train", [word, "run_dir=run"])
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


def test_a_duration_is_a_text_or_a_node() -> None:
    assert Duration.from_plain("01:02:03:30", "k") == Duration(1440 + 120 + 3.5)
    assert Duration.from_plain({"hours": 1, "seconds": 30}, "k") == Duration(60.5)
    assert TrainerSettings(max_time=Duration(2.0)).to_plain()["max_time"] == {"minutes": 2.0}
