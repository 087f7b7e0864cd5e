"""The feature networks of the shapes: repeatable batches, losses that fall, exports that load."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelwizard.cli.compose import compose
from pixelwizard.data import labelled, shapes
from pixelwizard.evaluation.names import NETWORKS
from pixelwizard.evaluation.networks import CLIPNetwork, VideoNetwork
from pixelwizard.training.train import make_module, train

CPU = torch.device("cpu")
KINDS = ("clip_encoder", "video_encoder")


def training(kind: str, folder: Path, *more: str) -> Any:
    words = [f"objective={kind}", "objective.batch=4", f"run_dir={folder}", "optimizer.warmup=2"]
    (job,) = compose("train", [*words, "optimizer.decay=0", *more])
    return job.config


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_fixed_batch_falls(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = make_module(training(kind, tmp_path))
    optimizer, losses = module.configure_optimizers(), []
    batch = next(iter(module.open_data().batches(0, 0, 1)))
    for _ in range(8):
        loss = module.loss(module.network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_depends_on_seed_and_step_alone(kind: str, tmp_path: Path) -> None:
    batches = make_module(training(kind, tmp_path)).open_data().batches
    first = iter(batches(0, 0, 1))
    next(first)
    one, two = next(first), next(iter(batches(1, 0, 1)))
    assert one.keys() == two.keys() and one["step"] == two["step"] == 1
    for name in one:
        equal = torch.equal if torch.is_tensor(one[name]) else lambda a, b: a == b
        assert equal(one[name], two[name]), name


def test_a_training_writes_what_evaluate_reads(tmp_path: Path) -> None:
    limits = ("trainer.max_steps=2", "checkpoint.every=2")
    assert train(training("video_encoder", tmp_path, *limits)) == 0
    network = VideoNetwork(NETWORKS["tiny-video"], tmp_path / "export", CPU)
    clips = torch.randint(256, (1, 3, 16, 64, 64), dtype=torch.uint8)
    assert network.features(clips).shape == (1, 64)


def test_an_exported_clip_is_that_which_was_trained(tmp_path: Path) -> None:
    config = training("clip_encoder", tmp_path)
    module = make_module(config)
    module.export(tmp_path / "export", module.network, module.network)
    network = CLIPNetwork(NETWORKS["tiny-clip"], tmp_path / "export", CPU)
    text = "a red circle grows over a white background"
    frame = torch.from_numpy(shapes.render(shapes.scene_for(text, 0), 64, 64, 1)[0].copy())
    pixels = (frame.permute(2, 0, 1)[None].float() / 255 - module.mean) / module.std
    tokens = module.tokenizer([text], return_tensors="pt")
    with torch.no_grad():
        found = module.network.eval()(tokens["input_ids"], pixels)
    cosine = float(found.logits_per_image / module.network.logit_scale.detach().exp())
    exported = float(network.images(network.fit(frame)) @ network.texts([text]).T)
    assert exported == pytest.approx(cosine, abs=0.01)  # weights in bfloat16


def test_damages_grow_with_their_strength_and_keep_the_shape() -> None:
    clip = labelled.stretched(shapes.render(shapes.scene(0), 128, 80, 16), 64)
    for damage in (labelled.blurred, labelled.noisy, labelled.shuffled, labelled.frozen):
        changes = []
        for strength in (0.2, 1.0):
            damaged = damage(clip, strength, random.Random(0))
            assert damaged.shape == clip.shape and damaged.dtype == torch.uint8
            changes.append(float((damaged.float() - clip.float()).abs().mean()))
        assert changes[1] > changes[0] > 0, damage.__name__


def test_the_second_half_of_a_batch_is_the_first_with_one_damage_each() -> None:
    batch = labelled.LabelledClips(6, 64, 16)(random.Random(1), "heldout")
    damage, slots = batch["damage"], batch["slots"]
    assert isinstance(damage, torch.Tensor) and isinstance(slots, torch.Tensor)
    assert (damage[:3] == 0).all() and ((damage[3:] > 0).sum(1) == 1).all()
    assert torch.equal(slots[:3], slots[3:])
