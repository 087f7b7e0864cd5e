"""A training that was killed, at whatever moment, continues as if nothing had been.

Kills are real: another process is sent SIGKILL by itself in the middle of a step, or with a
checkpoint half written.
"""

from __future__ import annotations

import csv
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import FEW_STEP, SIZE, few_step, small_training, write_backbone, write_config
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.objective import ShortcutSettings
from pixelwizard.config.output import TrackerSettings
from pixelwizard.config.train import CheckpointSettings, DataSettings, TrainConfig
from pixelwizard.io.process import Interrupted
from pixelwizard.models.checkpoints import own_statistics, weights_digest
from pixelwizard.models.weights import load_anchor, load_detail, load_vae
from pixelwizard.parallel.mesh import Rank
from pixelwizard.training.checkpointing import (
    OURS,
    CheckpointFiles,
    Checkpoints,
    last_checkpoint,
    read_checkpoint,
    refuse_other,
)
from pixelwizard.training.networks.base import TrainedNetwork
from pixelwizard.training.train import make_module, train

LOADERS: dict[str, Any] = {"anchor": load_anchor, "detail": load_detail, "vae": load_vae}
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from pixelwizard.config import tasks
from pixelwizard.training.networks.base import TrainedNetwork
from pixelwizard.training.train import train

save, step = torch.save, TrainedNetwork.training_step

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def half_a_checkpoint(state, file, *rest):
    save(state, file)
    if state.get("global_step") == 4:
        file.truncate(file.tell() // 2)
        kill()

def half_a_step(module, batch, batch_idx):
    loss = step(module, batch, batch_idx)
    if module.global_step == 5:
        kill()
    return loss

def killed(folder):
    child = os.fork()
    if not child:
        train(tasks.load(Path(folder) / "config.yaml"))
        os._exit(0)
    print(folder, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(*sorted(path.name for path in Path(folder, "checkpoints").iterdir()), flush=True)

torch.save = half_a_checkpoint
killed(sys.argv[1])
torch.save, TrainedNetwork.training_step = save, half_a_step
killed(sys.argv[1])
"""
"""Two processes kill themselves: with half of a checkpoint written, in the middle of a step."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the trainings of this file share."""
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def finished(
    backbone: BackboneSettings, latents: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """A training of the detail network that nothing interrupted: two batches to a step."""
    shortcut = ShortcutSettings(probability=0.5)
    folder = tmp_path_factory.mktemp("finished")
    config = small_training(backbone, folder, latents, "detail", shortcut=shortcut)
    config = replace(
        config,
        trainer=replace(config.trainer, accumulate_grad_batches=2),
        checkpoint=CheckpointSettings(every=2, container=True),
        tracker=TrackerSettings(kind="csv"),
    )
    assert train(config) == 0
    return config


def test_after_sigkill_losses_average_and_order_are_those_of_a_whole_training(
    finished: TrainConfig, tmp_path: Path
) -> None:
    torn = replace(finished, run_dir=str(tmp_path / "torn"))
    write_config(torn)
    command = [sys.executable, "-c", KILLED, torn.run_dir]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [re.sub(r"ckpt\.\S+\.part", "ckpt.part", line) for line in ended.stdout.splitlines()]
    assert [line for line in said if line.startswith((torn.run_dir, "step-"))] == [
        f"{torn.run_dir} {-signal.SIGKILL}",
        "step-00000002.ckpt step-00000004.ckpt.part",
        f"{torn.run_dir} {-signal.SIGKILL}",
        "step-00000002.ckpt step-00000004.ckpt",
    ]
    assert last(torn)[OURS]["next_batch"] == 8
    assert train(torn) == 0
    assert_same(finished, torn)
    for name in ("log.csv", "buckets.csv", "csv/metrics.csv"):
        assert rows(finished, name) == rows(torn, name)
    told = rows(torn, "log.csv")
    assert any(row["consistency"] for row in told) and any(row["held_out"] for row in told)
    assert sum(int(row["samples"]) for row in rows(torn, "buckets.csv")) == 6 * 2 * 2


OTHERS = [("vae", ""), ("anchor", ""), *(("anchor", name) for name in FEW_STEP)]


@pytest.mark.parametrize(("part", "objective"), OTHERS)
def test_other_networks_and_objectives_continue_too(
    backbone: BackboneSettings,
    tmp_path: Path,
    latents: Path,
    part: str,
    objective: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = few_step(objective) if objective else {}
    whole = small_training(backbone, tmp_path / "whole", latents, part, **given)
    whole = replace(whole, stage=part if objective else None)
    torn = replace(whole, run_dir=str(tmp_path / "torn"))
    assert train(whole) == 0
    with monkeypatch.context() as patch:
        patch.setattr(TrainedNetwork, "training_step", stopped_at_step_4)
        with pytest.raises(Stopped):
            train(torn)
    assert train(torn) == 0
    assert_same(whole, torn)
    assert_loadable(torn)


class Stopped(BaseException):
    """The training ends in the middle of a step."""


def stopped_at_step_4(module: Any, batch: dict[str, Any], batch_idx: int) -> Tensor:
    if batch["step"] == 4:
        raise Stopped
    return step(module, batch, batch_idx)


step = TrainedNetwork.training_step


def assert_same(whole: TrainConfig, torn: TrainConfig) -> None:
    """The same losses, weights, average and state of the optimizer, to the bit."""
    first, second = last(whole), last(torn)
    assert first["global_step"] == second["global_step"] == 6
    for name in ("state_dict", "optimizer_states"):
        assert_equal(first[name], second[name])
    assert torch.equal(first[OURS]["random"], second[OURS]["random"])
    assert column(whole, "loss") == column(torn, "loss")


def last(config: TrainConfig) -> dict[str, Any]:
    path = last_checkpoint(Path(config.run_dir) / "checkpoints")
    assert path is not None
    return read_checkpoint(path)


def rows(config: TrainConfig, name: str) -> list[dict[str, str]]:
    """A table of a run without the columns that measure the machine."""
    with open(Path(config.run_dir) / name, newline="") as file:
        return [
            {k: v for k, v in row.items() if not re.search("seconds?|minutes|peak", k)}
            for row in csv.DictReader(file)
        ]


def column(config: TrainConfig, name: str) -> list[str]:
    with open(Path(config.run_dir) / "log.csv", newline="") as file:
        return [row[name] for row in csv.DictReader(file) if row["loss"]]


def assert_equal(first: Any, second: Any) -> None:
    """Two nests of dictionaries and lists hold the same values, tensors bit for bit."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_equal(first[name], second[name])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def averaged(config: TrainConfig) -> dict[str, Tensor]:
    state = last(config)["state_dict"]
    return {k.removeprefix("average."): v for k, v in state.items() if k.startswith("average.")}


def assert_loadable(config: TrainConfig) -> None:
    """The export is a backbone's folder that holds the moving average."""
    folder = Path(config.run_dir) / "export"
    loaded = LOADERS[config.part](replace(config.backbone, folder=str(folder)))
    assert_equal(dict(loaded.state_dict()), averaged(config))
    assert (folder / "google" / "umt5-xxl" / "tokenizer.json").is_file()
    statistics, sizes = own_statistics(folder), config.backbone.vae
    assert [len(values) for values in statistics.values()] == [4, 4]
    configured = {"latent_mean": sizes.latent_mean, "latent_std": sizes.latent_std}
    assert (statistics == configured) is (config.part != "vae")


def test_the_wish_to_stop_waits_for_the_step_and_its_checkpoint(
    backbone: BackboneSettings, tmp_path: Path, latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(module: Any, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if batch["step"] == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(module, batch, batch_idx)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(TrainedNetwork, "training_step", signalled)
    config = small_training(backbone, tmp_path, latents, "anchor")
    with pytest.raises(Interrupted):
        train(config)
    assert last(config)["global_step"] == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_wish_to_stop_with_nothing_to_write_or_a_second_one_does_not_wait(
    backbone: BackboneSettings, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(small_training(backbone, tmp_path, tmp_path, "anchor"), "", Rank())
    with pytest.raises(Interrupted):
        checkpoints.hear(signal.SIGTERM)
    checkpoints.begun = True
    checkpoints.hear(signal.SIGTERM)
    with pytest.raises(Interrupted):
        checkpoints.hear(signal.SIGTERM)


def test_both_exports_are_read_by_generate(finished: TrainConfig) -> None:
    assert_loadable(finished)
    container = str(Path(finished.run_dir) / "export" / "model.pt")
    backbone = replace(finished.backbone, detail=container)
    assert_equal(dict(load_detail(backbone).state_dict()), averaged(finished))
    newest = load_detail(replace(backbone, ema="false")).state_dict()
    weights = {k: v for k, v in last(finished)["state_dict"].items() if k.startswith("network.")}
    assert_equal({f"network.{k}": v for k, v in newest.items()}, weights)
    assert weights_digest(backbone, "detail") != weights_digest(finished.backbone, "detail")


def test_what_is_no_checkpoint_counts_as_damaged(tmp_path: Path) -> None:
    paths = [tmp_path / f"step-0000000{number}.ckpt" for number in range(4)]
    CheckpointFiles().save_checkpoint({OURS: {}}, paths[0])
    paths[1].write_bytes(b"x" + paths[0].read_bytes())
    torch.save({"weights": torch.zeros(2)}, paths[2])
    os.mkfifo(paths[3])
    assert last_checkpoint(tmp_path) == paths[0]


def test_of_a_damaged_checkpoint_the_one_before_is_used(
    finished: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = replace(finished, run_dir=str(tmp_path / "torn"))
    shutil.copytree(finished.run_dir, torn.run_dir)
    newest = Path(torn.run_dir) / "checkpoints" / "step-00000006.ckpt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert train(torn) == 0
    assert f"{newest} is damaged; the training continues from" in capsys.readouterr().out
    assert_same(finished, torn)
    assert rows(finished, "log.csv") == rows(torn, "log.csv")


def test_old_checkpoints_make_room_and_nothing_else_is_left(finished: TrainConfig) -> None:
    names = sorted(path.name for path in (Path(finished.run_dir) / "checkpoints").iterdir())
    assert names == ["step-00000004.ckpt", "step-00000006.ckpt"]


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_without_space_the_checkpoint_before_stays(tmp_path: Path) -> None:
    files, state = CheckpointFiles(), {OURS: {}, "weights": torch.zeros(1 << 20)}
    files.save_checkpoint(state, tmp_path / "step-00000002.ckpt")
    sentence = r"step-00000004.ckpt cannot be written \(.*\); the checkpoint before it stays"
    with room_for(1 << 20), pytest.raises(ValueError, match=sentence) as refused:
        files.save_checkpoint(state, tmp_path / "step-00000004.ckpt")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.ckpt"]
    kept = last_checkpoint(tmp_path)
    assert kept is not None and torch.equal(read_checkpoint(kept)["weights"], state["weights"])


def test_an_export_that_was_interrupted_is_made_by_the_same_command(
    finished: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = replace(finished, run_dir=str(tmp_path / "torn"))
    shutil.copytree(finished.run_dir, torn.run_dir)
    (Path(torn.run_dir) / "checkpoints" / "step-00000006.ckpt").unlink()
    copy = shutil.copyfile

    def half(source: Path, place: Path) -> None:
        copy(source, place)
        os.truncate(place, place.stat().st_size // 2)
        raise Interrupted(signal.SIGTERM)

    shutil.rmtree(Path(torn.run_dir) / "export")
    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(Interrupted):
        train(torn)
    monkeypatch.undo()
    assert train(torn) == 0
    exports = [Path(config.run_dir) / "export" for config in (finished, torn)]
    first, second = ({p.relative_to(e): p for p in e.rglob("*.*")} for e in exports)
    assert first.keys() == second.keys()
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(backbone="control_blocks"), r"its weight network.spatial_adapter.*absent"),
        (dict(data=DataSettings(count=3)), r"data.*count was 4, now 3"),
        (dict(seed=1), r"seed was 0, now 1"),
        (dict(resolution=replace(SIZE, shift=4.0)), r"resolution.shift was 5.5, now 4.0"),
    ],
)
def test_a_training_with_another_network_or_other_data_is_not_continued(
    finished: TrainConfig, changes: dict[str, Any], sentence: str
) -> None:
    if changes.get("backbone"):
        backbone = replace(finished.backbone, control_blocks=[])
        changes = dict(backbone=backbone)
    if "data" in changes:
        changes = dict(data=replace(finished.data, count=3))
    config = replace(finished, **changes)
    config = replace(config, trainer=replace(config.trainer, max_steps=8))
    before = {path: path.read_bytes() for path in Path(config.run_dir).rglob("*.ckpt")}
    with pytest.raises(ValueError, match=sentence) as refused:
        train(config)
    assert "\n" not in str(refused.value)
    assert before == {path: path.read_bytes() for path in Path(config.run_dir).rglob("*.ckpt")}


def test_a_checkpoint_from_before_a_setting_continues_with_its_default_alone(
    finished: TrainConfig, tmp_path: Path
) -> None:
    newest = max(Path(finished.run_dir, "checkpoints").glob("*.ckpt"))
    state = read_checkpoint(newest)
    settings = state["pixelwizard"]["config"]
    del settings["backbone"]["few_step"], settings["attention"], settings["objective"]["teacher"]
    torch.save(state, older := tmp_path / newest.name)
    module = make_module(finished)
    refuse_other(older, finished, module, state["pixelwizard"]["data"])
    with pytest.raises(ValueError, match="attention was None, now t3"):
        refuse_other(older, replace(finished, attention="t3"), module, state["pixelwizard"]["data"])
