"""What a training does beside its steps: the average, figures, samples, the time they take."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import small_training, write_backbone

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.objective import ConditionSettings, ShortcutSettings
from pixelwizard.config.schema import ConfigError
from pixelwizard.config.train import SampleSettings
from pixelwizard.tracking import Tracker, fallback
from pixelwizard.tracking.loggers import CSVRows, StepTable
from pixelwizard.training import stopwatch
from pixelwizard.training.objectives.shortcut import CONSISTENCY
from pixelwizard.training.samples import Samples
from pixelwizard.training.train import make_module, train
from pixelwizard.training.training_log import RunLog, TrainingLog, bucketed
from pixelwizard.training.velocity import VelocityNetwork


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def batch(step: int = 0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(3)
    return {
        "latent": torch.randn(2, 4, 2, 4, 8, generator=draw),
        "condition": torch.randn(2, 4, 2, 2, 4, generator=draw),
        "text": [torch.randn(3, 16, generator=draw)] * 2,
        "empty": [torch.zeros(1, 16)] * 2,
        "step": step,
    }


def module_of(backbone: BackboneSettings, folder: Path, **changes: Any) -> VelocityNetwork:
    torch.manual_seed(0)
    shortcut = ShortcutSettings(probability=0.5)
    condition = ConditionSettings(pass_through=True, adapter_init_std=0.1)
    config = small_training(
        backbone, folder, folder, "detail", shortcut=shortcut, condition=condition
    )
    found = make_module(replace(config, **changes))
    assert isinstance(found, VelocityNetwork)
    return found


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_checkpointed_blocks_have_the_same_gradients(
    backbone: BackboneSettings, tmp_path: Path, precision: str
) -> None:
    found = []
    for checkpointing in (False, True):
        module = module_of(backbone, tmp_path)
        module.network.checkpointing = checkpointing
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
            loss = module.loss(module.network, batch())
        loss.backward()
        found.append([p.grad for p in module.network.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_all_ranks_have_the_same_kind_of_target_and_their_own_noise(
    backbone: BackboneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds, losses = [], []
    for rank in range(2):
        monkeypatch.setattr(VelocityNetwork, "global_rank", rank)
        module = module_of(backbone, tmp_path)
        kinds.append([module.target_kind(batch(step)) for step in range(40)])
        losses.append(float(module.loss(module.network, batch()).detach()))
    assert kinds[0] == kinds[1] and 10 < kinds[0].count(CONSISTENCY) < 30
    assert losses[0] != losses[1]


def test_batches_that_make_a_step_have_the_same_kind_of_target(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    plain = module_of(backbone, tmp_path)
    trainer = replace(plain.config.trainer, accumulate_grad_batches=4)
    several = module_of(backbone, tmp_path, trainer=trainer)
    kinds = [several.target_kind(batch(step)) for step in range(40)]
    assert kinds[::4] == [plain.target_kind(batch(step)) for step in range(10)]
    assert kinds[::4] == kinds[1::4] == kinds[2::4] == kinds[3::4]
    assert [several.completes_step(batch(step)) for step in range(4)] == [False] * 3 + [True]


@pytest.mark.parametrize(
    "start, expected",
    [(None, [1.0, 1.8182, 2.7045]), (2, [1.0, 2.0, 2.5])],
    ids=["rising", "from 2"],
)
def test_the_average_follows_by_its_rule(
    backbone: BackboneSettings, tmp_path: Path, start: int | None, expected: list[float]
) -> None:
    """Weights of 1, 2, 3 after three steps."""
    module = module_of(backbone, tmp_path)
    optimizer = replace(module.config.optimizer, ema=0.5, ema_start=start)
    module.config = replace(module.config, optimizer=optimizer)
    found = []
    for value in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(module.network.head.head.bias, value)
        module.update_ema()
        found.append(float(module.average.head.head.bias[0]))
    assert found == pytest.approx(expected, abs=1e-3)


def test_errors_are_told_apart_by_kind_time_and_step_size(tmp_path: Path) -> None:
    log = TrainingLog(RunLog(tmp_path))
    log.remember(
        [
            ("flow", 150.0, 0.0, 1.0),
            ("flow", 999.0, 0.0, 2.0),
            ("flow", 200.0, 0.0, 3.0),
            ("consistency", 646.0, 646.0, 4.0),
        ]
    )
    rows = {(r["branch"], r["timestep"], r["step_size"]): r for r in bucketed(log.errors)}
    assert {key: row["error"] for key, row in rows.items()} == {
        ("flow", 200, 0): 2.0,
        ("flow", 1000, 0): 2.0,
        ("consistency", 800, 1000): 4.0,
    }
    assert rows["flow", 200, 0]["samples"] == 2


def test_every_second_counts_as_one_activity(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 8.0, 8.5, 9.0, 10.0])
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: next(now))
    watch = stopwatch.Stopwatch()
    for activity in ("step", "logging", "checkpoints", "samples", None):
        watch.enter(activity)
    assert dict(watch.seconds) == {"step": 8, "logging": 0.5, "checkpoints": 0.5, "samples": 1.0}
    assert watch.lost == 0.125 and watch.total == 10
    assert "data, logging and checkpoints take 12.5 % of step time" in watch.split()


def test_a_continued_table_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    table = StepTable(tmp_path / "log.csv", ("step", "loss"))
    table.keep(0)
    table.add({"step": step, "loss": step / 10} for step in (1, 2, 3))
    table.keep(2)
    assert [row["step"] for row in table.rows()] == ["1", "2"]
    table.add([{"step": 3, "loss": 9}])
    assert (tmp_path / "log.csv").read_text().split() == ["step,loss", "1,0.1", "2,0.2", "3,9"]


def test_columns_do_not_depend_on_what_was_logged_first(tmp_path: Path) -> None:
    one, other = CSVRows(tmp_path / "one"), CSVRows(tmp_path / "other")
    for name in ("loss", "minutes"):
        one.log_metrics({name: 1.0}, step=2)
    one.log_metrics({"loss": 2.0, "minutes": 3.0, "error": 4.0}, step=4)
    other.log_metrics({"minutes": 1.0, "loss": 1.0}, step=2)
    other.log_metrics({"error": 4.0, "minutes": 3.0, "loss": 2.0}, step=4)
    lines = (tmp_path / "one/metrics.csv").read_text().split()
    assert lines == ["step,error,loss,minutes", "2,,1.0,", "2,,,1.0", "4,4.0,2.0,3.0"]
    assert (tmp_path / "other/metrics.csv").read_text().split()[0] == lines[0]


@pytest.mark.parametrize(
    "damage", [b"a0: [x]\na1: [y]\n", b"step,loss\n1,2,3\n", b"step\nx\n", b"step\n\xff\n"]
)
def test_a_table_of_steps_that_is_none_is_named(tmp_path: Path, damage: bytes) -> None:
    table = StepTable(tmp_path / "log.csv", ("step", "loss"))
    table.path.write_bytes(damage)
    with pytest.raises(ConfigError, match="log.csv is damaged: its rows are no steps; remove it"):
        table.keep(0)


class Recorder(Tracker):
    """Remembers what it is told."""

    def __init__(self, folder: Path) -> None:
        self.rows = CSVRows(folder)
        self.loggers = [self.rows]
        self.samples: list[tuple[str, str, int]] = []
        self.ended: list[bool] = []

    def sample(self, path: Path, caption: str, step: int) -> None:
        assert path.stat().st_size > 0
        self.samples.append((path.stem, caption, step))

    def finish(self, sheet: Path | None, done: bool = False) -> None:
        self.ended.append(done)


def test_scores_of_samples_after_the_checkpoint_are_dropped(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    config = small_training(backbone, tmp_path, tmp_path, "detail")
    source: Any = None  # nothing is sampled here
    samples = Samples(config, source, Tracker(), is_first=True)
    samples.table.keep(0)
    samples.table.add({"step": step, "score": "clip", "value": 1.5} for step in (3, 6))
    trainer: Any = SimpleNamespace(global_step=4)
    samples.on_train_start(trainer, None)
    assert [row["step"] for row in samples.table.rows()] == ["3"]


def test_samples_and_all_figures_go_to_the_tracker_and_into_tables(
    backbone: BackboneSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recorder = Recorder(tmp_path / "csv")
    monkeypatch.setattr(fallback, "makers", lambda *_: {"recorder": lambda: recorder})
    shortcut = ShortcutSettings(probability=0.5)
    config = small_training(backbone, tmp_path, tmp_path / "latents", "detail", shortcut=shortcut)
    assert train(replace(config, samples=SampleSettings(every=3, count=2))) == 0
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4"))
    assert names == [f"samples/step-0000000{step}/0{row}.mp4" for step in (3, 6) for row in (0, 1)]
    assert [(name, step) for name, _, step in recorder.samples] == [
        *(("00", 3), ("01", 3)),
        *(("00", 6), ("01", 6)),
    ]
    assert recorder.ended == [True]
    told = set((tmp_path / "csv" / "metrics.csv").read_text().splitlines()[0].split(","))
    assert told > {"loss", "flow", "consistency", "held_out", "grad_norm", "lr", "peak_gb"}
    assert told > {"step_seconds", "data_seconds", "tokens_per_second"}
    assert any(name.startswith("error/flow/t") for name in told)
    with open(tmp_path / "buckets.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["samples"]) for row in rows) == 6 * config.objective.batch
    assert "data, logging and checkpoints take" in capsys.readouterr().err
