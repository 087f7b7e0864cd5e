"""Ranks train as one process would on their batches together; states say nothing of slices."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import free_port, start, trainings
from safetensors.torch import load_file
from small import FEW_STEP, few_step, small_training, write_backbone, write_config
from test_detail_network import OWN as DETAIL
from test_detail_network import write_own_detail
from test_golden import relative_error
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.objective import AdapterSettings, ShortcutSettings
from pixelwizard.config.parallel import ParallelSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.targets import Target
from pixelwizard.config.train import CheckpointSettings, OptimizerSettings, TrainConfig
from pixelwizard.config.trainer import Duration, TrainerSettings
from pixelwizard.models.checkpoints import NAMES
from pixelwizard.models.lora.adapter import is_adapter
from pixelwizard.training.checkpointing import read_checkpoint
from pixelwizard.training.data import TrainingData
from pixelwizard.training.train import train
from pixelwizard.training.velocity import VelocityNetwork

RANKS, STEPS, BETWEEN = 2, 4, 2
EQUAL = 1e-5
HALF_EQUAL = 0.02
"""Of factors trained on gradients that pass through a network in bfloat16."""
FSDP = ParallelSettings("fsdp", prompts=RANKS, shard="all")
COPIES = ParallelSettings("prompts", prompts=RANKS)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def config_of(
    backbone: BackboneSettings, folder: Path, name: str, parallel: ParallelSettings, steps: int
) -> TrainConfig:
    shortcuts = ShortcutSettings(start=0.0, probability=0.5)
    start: dict[str, Any] = {"init_from": None} if "lora" in name else {}
    config = small_training(
        backbone, folder / name, folder / "data", "detail", shortcut=shortcuts, **start
    )
    if "own" in name:
        target = Target("torch.optim.SGD", {"lr": 0.01, "momentum": 0.9})
        own = replace(backbone, detail_network=DETAIL, detail=str(write_own_detail(folder / "w")))
        config = replace(config, backbone=own, optimizer=OptimizerSettings(target=target))
    if "lora" in name:
        lora = AdapterSettings("lora", rank=2)
        config = replace(config, adapter=lora, backbone=replace(backbone, dtype="bfloat16"))
    trainer = TrainerSettings(max_steps=steps, log_every_n_steps=1)
    return replace(
        config, parallel=parallel, trainer=trainer, checkpoint=CheckpointSettings(every=BETWEEN)
    )


def joined_batches(data: TrainingData) -> Iterator[dict[str, Any]]:
    """What all ranks see, side by side."""
    own = [data.examples.batches(0, rank, RANKS) for rank in range(RANKS)]
    for batches in zip(*own, strict=True):
        yield {"ranks": batches, "step": batches[0]["step"]}


def train_joined(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process on the batches of all ranks, each with its rank's random numbers."""
    loss = VelocityNetwork.loss

    def joined(self: VelocityNetwork, network: Any, batch: dict[str, Any]) -> Tensor:
        losses = []
        for rank, own in enumerate(batch.get("ranks", [batch])):
            monkeypatch.setattr(VelocityNetwork, "global_rank", rank, raising=False)
            losses.append(loss(self, network, own))
        monkeypatch.setattr(VelocityNetwork, "global_rank", 0, raising=False)
        return torch.stack(losses).mean()

    with monkeypatch.context() as patch:
        patch.setattr(VelocityNetwork, "loss", joined)
        patch.setattr(TrainingData, "train_dataloader", lambda self: joined_batches(self))
        assert train(config) == 0


@pytest.fixture(scope="module")
def trained(backbone: BackboneSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process on all batches; two ranks with copies; two with slices, in two goes."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("joined", "joined lora", "joined own"):
            train_joined(config_of(backbone, folder, name, ParallelSettings(), STEPS), patch)
    slices = ("slices", "slices lora", "slices own")
    first = [("copies", COPIES, STEPS), *((name, FSDP, BETWEEN) for name in slices)]
    for chosen in (first, [(name, FSDP, STEPS) for name in slices]):
        folders = [
            (str(write_config(config_of(backbone, folder, *go))), free_port()) for go in chosen
        ]
        assert start(RANKS, trainings, folders) == [0] * RANKS
    return folder


def state_of(folder: Path, step: int) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / f"step-{step:08d}.ckpt")


@pytest.mark.parametrize("name", ["copies", "slices", "slices own"])
@pytest.mark.parametrize("step", [BETWEEN, STEPS])
def test_a_step_of_ranks_is_one_on_the_joined_batch(trained: Path, name: str, step: int) -> None:
    """Also of a user's network and optimizer."""
    alone = "joined own" if "own" in name else "joined"
    expected, actual = (state_of(trained / which, step) for which in (alone, name))
    assert expected["state_dict"].keys() == actual["state_dict"].keys()
    for key, weight in expected["state_dict"].items():
        if weight.any():
            assert relative_error(actual["state_dict"][key], weight) < EQUAL, key
    (own,), (other,) = expected["optimizer_states"], actual["optimizer_states"]
    assert own["param_groups"] == other["param_groups"]
    for index, values in own["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.any():
                assert relative_error(other["state"][index][key], value) < 1e-4, (index, key)


@pytest.fixture(scope="module")
def few_steps(backbone: BackboneSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every few-step objective: one process on all batches, and two ranks with slices."""
    folder = tmp_path_factory.mktemp("few")
    folders = []
    for name in FEW_STEP:
        alone = few_step_config(backbone, folder, name, "joined", ParallelSettings())
        with pytest.MonkeyPatch.context() as patch:
            train_joined(alone, patch)
        sliced = few_step_config(backbone, folder, name, "slices", FSDP)
        folders.append((str(write_config(sliced)), free_port()))
    assert start(RANKS, trainings, folders) == [0] * RANKS
    return folder


def few_step_config(
    backbone: BackboneSettings, folder: Path, name: str, how: str, parallel: ParallelSettings
) -> TrainConfig:
    run, data = folder / f"{name} {how}", folder / "data"
    config = small_training(backbone, run, data, "detail", **few_step(name))
    trainer = TrainerSettings(max_steps=STEPS, log_every_n_steps=1)
    every = CheckpointSettings(every=STEPS)
    return replace(config, parallel=parallel, trainer=trainer, checkpoint=every)


@pytest.mark.parametrize("name", FEW_STEP)
def test_a_few_step_objective_of_ranks_is_one_on_the_joined_batch(
    few_steps: Path, name: str
) -> None:
    """A bias before a norm has no gradient but rounding, which AdamW makes into a step."""
    joined, slices = (few_steps / f"{name} {how}" for how in ("joined", "slices"))
    expected, actual = (state_of(folder, STEPS)["state_dict"] for folder in (joined, slices))
    assert expected.keys() == actual.keys()
    for key, weight in expected.items():
        if weight.any():
            assert relative_error(actual[key].float(), weight.float()) < 0.05, key
    first, second = (gradient_norms(folder) for folder in (joined, slices))
    assert len(first) == STEPS and second == pytest.approx(first, rel=1e-4)


def gradient_norms(folder: Path) -> list[float]:
    with open(folder / "log.csv", newline="") as file:
        return [float(row["grad_norm"]) for row in csv.DictReader(file) if row["grad_norm"]]


@pytest.mark.parametrize("name", ["copies", "slices"])
def test_the_export_of_ranks_has_whole_weights(trained: Path, name: str) -> None:
    files = [trained / which / "export" / NAMES["detail"][0] for which in ("joined", name)]
    expected, actual = (load_file(file) for file in files)
    assert expected.keys() == actual.keys()
    assert all(relative_error(actual[k], v) < EQUAL for k, v in expected.items() if v.any())
    rows = (trained / name / "log.csv").read_text().splitlines()
    assert sum(not row.startswith("step") for row in rows) >= STEPS


def test_a_lora_of_ranks_stands_on_slices_in_bfloat16(trained: Path) -> None:
    """Checkpoints and export have whole factors and nothing else, as one process writes them."""
    names = ("joined lora", "slices lora")
    for step in (BETWEEN, STEPS):
        expected, actual = (state_of(trained / name, step)["state_dict"] for name in names)
        assert expected.keys() == actual.keys()
        assert all(is_adapter(name) for name in expected if name != "averaged")
    files = [load_file(trained / name / "export" / "lora.safetensors") for name in names]
    assert files[0].keys() == files[1].keys()
    for key, weight in files[0].items():
        assert relative_error(files[1][key], weight) < HALF_EQUAL, key


def test_slices_are_of_the_users_network_and_optimizer(trained: Path) -> None:
    state = state_of(trained / "slices own", STEPS)
    assert "network.dt_embedding.weight" in state["state_dict"]
    (optimizer,) = state["optimizer_states"]
    assert optimizer["param_groups"][0]["momentum"] == 0.9
    assert all("momentum_buffer" in values for values in optimizer["state"].values())


def test_another_number_of_ranks_is_another_training(
    backbone: BackboneSettings, trained: Path
) -> None:
    config = config_of(backbone, trained, "slices", ParallelSettings(), STEPS + 1)
    with pytest.raises(ValueError, match="its data were .* for 2 ranks, now "):
        train(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parallel": ParallelSettings("ulysses", sequence=1)}, "is for generate; the ranks of a"),
        ({"trainer": TrainerSettings(max_time=Duration(1.0))}, "trainer.max_time is for one rank"),
    ],
)
def test_what_ranks_cannot_share_is_refused(
    backbone: BackboneSettings, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    config = replace(config_of(backbone, tmp_path, "run", COPIES, STEPS), **changes)
    with pytest.raises(ConfigError, match=sentence):
        check(config)
