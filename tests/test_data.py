"""Training examples: folders of videos, encoded latents, shapes that are still being encoded."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import BACKBONE, FEW_STEP, SIZE, few_step, small_training, write_backbone
from torch import Tensor
from torch.utils.data import Dataset

from pixelwizard import worker
from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.config.geometry import Geometry
from pixelwizard.config.objective import FlowSettings, ObjectiveSettings
from pixelwizard.config.output import TrackerSettings, VideoSettings
from pixelwizard.config.schema import ConfigError, check
from pixelwizard.config.train import DataSettings, DegradationSettings, EncodeConfig, TrainConfig
from pixelwizard.config.trainer import TrainerSettings
from pixelwizard.data import shapes
from pixelwizard.data.batches import Batches, ClipExamples, HeldOut, Source
from pixelwizard.data.crops import CropBatches, clip_of
from pixelwizard.data.examples import Recipe, degraded
from pixelwizard.data.folder import open_folder, scan
from pixelwizard.data.latents import GrowingExamples, Shards
from pixelwizard.data.loading import Loader
from pixelwizard.data.sources import Cache, open_sources
from pixelwizard.data.table import PROBED
from pixelwizard.io.process import ProcessLost
from pixelwizard.io.reading import ReadFailed, probe, read_clip
from pixelwizard.io.terminal import Line
from pixelwizard.io.video import VideoError, VideoWriter
from pixelwizard.records.run_folder import WorkStopped, claim
from pixelwizard.training.encode import encode
from pixelwizard.training.train import make_module, train

FRAMES = 8
TABLE = """file,caption_long,caption
a.mp4,"a red circle, moving left",a circle
b.mp4,a blue square,
torn.mp4,nobody sees this,
short.mp4,too short,
gone.mp4,never there,
c.mp4,a red square,
d.mp4,a blue circle,
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four good clips of 160x96, one too short, one damaged in the middle of its frames."""
    folder = tmp_path_factory.mktemp("videos")
    lengths = {"a": FRAMES, "b": FRAMES, "c": FRAMES, "d": FRAMES, "short": 3, "torn": 40}
    for number, (name, frames) in enumerate(lengths.items()):
        clip = shapes.render(shapes.scene(number), 160, 96, frames)
        noisy = np.random.default_rng(number).integers(0, 40, clip.shape, np.uint8)
        settings = VideoSettings(codec="ffv1" if name == "torn" else "h264")
        with VideoWriter(folder / f"{name}.mp4", 160, 96, settings) as writer:
            writer.write(clip // 2 + noisy)
    whole = (folder / "torn.mp4").read_bytes()
    part = len(whole) // 8
    (folder / "torn.mp4").write_bytes(whole[:part] + b"\x7f" * 6 * part + whole[7 * part :])
    (folder / "table.csv").write_text(TABLE)
    return folder


def clip_settings(videos: Path, **changes: Any) -> DataSettings:
    settings = DataSettings(
        **dict(kind="clips", dir=str(videos), captions=str(videos / "table.csv")),
        **dict(held_out=1, workers=0, shard=2),
    )
    return replace(settings, **changes)


def training_on(backbone: BackboneSettings, folder: Path, data: DataSettings) -> TrainConfig:
    return TrainConfig(
        run_dir=str(folder),
        backbone=backbone,
        resolution=SIZE,
        data=data,
        objective=ObjectiveSettings(
            kind="shortcut", batch=2, flow=FlowSettings(weighting="uniform")
        ),
        trainer=TrainerSettings(max_steps=2, log_every_n_steps=1),
        tracker=TrackerSettings(kind="none"),
    )


def test_clips_that_cannot_be_used_are_counted_and_named_once(
    videos: Path, tmp_path: Path, caplog: Any, capsys: Any
) -> None:
    with caplog.at_level(logging.WARNING):
        clips = open_folder(clip_settings(videos), 5, seed=3, kept=tmp_path / "clips.json")
    assert len(clips["train"]) == 4 and len(clips["heldout"]) == 1  # torn.mp4 looks whole
    held_out = clips["heldout"].captions(0)
    assert held_out not in [clips["train"].captions(number) for number in range(4)]
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == 2 and "short.mp4" in named[0] and "gone.mp4" in named[1]
    assert "2 of 7 videos are skipped; run.log names them" in capsys.readouterr().err
    caplog.clear()
    source = ClipExamples(clips["train"], Recipe("anchor", SIZE, DegradationSettings(), 0))
    for number in range(3):
        batch = source.batch([0, 1, 2, 3], random.Random(number))
        assert "nobody sees this" not in batch["caption"]
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["skipped torn.mp4"]
    assert "1 of 4 clips could not be read so far" in capsys.readouterr().err
    again = open_folder(clip_settings(videos), 5, seed=3, kept=tmp_path / "clips.json")
    assert again["train"].identity == clips["train"].identity


def test_the_videos_that_are_held_out_are_drawn_by_the_seed(videos: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file,caption\n" + "".join(f"{n}.mp4,{n} {k}\n" for k in "12" for n in "abcd"))
    settings = clip_settings(videos, captions=str(table), held_out=2)
    drawn = set()
    for seed in range(8):
        parts = [open_folder(settings, 5, seed, tmp_path / "clips.json") for _ in range(2)]
        assert parts[0]["heldout"].identity == parts[1]["heldout"].identity
        train, held_out = (
            {row.video for row, _ in parts[0][s].clips} for s in ("train", "heldout")
        )
        assert len(held_out) == 2 and not train & held_out and len(parts[0]["heldout"]) == 4
        split = json.loads((tmp_path / "clips.json").read_text())
        assert {name for name, one in split.items() if one["split"] == "heldout"} == held_out
        drawn |= held_out
    assert drawn == {"a.mp4", "b.mp4", "c.mp4", "d.mp4"}


def test_a_scan_keeps_what_it_has_learnt(videos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    kept, looked = tmp_path / "clips.json", []

    def watched(path: Path) -> Any:
        looked.append(path.name)
        if failing and path.name == "d.mp4":
            raise ReadFailed("d.mp4 cannot be read as a video: Input/output error")
        return probe(path)

    monkeypatch.setattr("pixelwizard.data.folder.probe", watched)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    names, failing = ["a.mp4", "b.mp4", "gone.mp4", "a.mp4", "d.mp4"], True
    with pytest.raises(ValueError, match="d.mp4 cannot be read .* repeat the command to go on"):
        scan(videos, names, kept)
    assert looked == ["a.mp4", "b.mp4", "d.mp4"]
    failing = False
    found = scan(videos, names, kept)
    assert looked[3:] == ["d.mp4"] and list(found) == ["a.mp4", "b.mp4", "gone.mp4", "d.mp4"]
    assert found["gone.mp4"].problem == "No such file or directory" and not found["d.mp4"].problem
    kept.write_text("[1, 2]")
    assert scan(videos, names, kept) == found


def test_videos_that_are_too_slow_for_the_rate_are_counted(
    videos: Path, tmp_path: Path, capsys: Any
) -> None:
    open_folder(clip_settings(videos, fps=50.0), 1, 0, tmp_path / "clips.json")
    said = capsys.readouterr().err
    assert "6 of 6 videos have less than 25 frames a second; at data.fps=50" in said


def test_what_one_process_of_a_loader_could_not_read_no_other_names_again(
    videos: Path, tmp_path: Path, caplog: Any
) -> None:
    clips = open_folder(clip_settings(videos), 5, 3, tmp_path / "clips.json")["train"]
    source = ClipExamples(clips, Recipe("anchor", SIZE, DegradationSettings(), 0))
    arguments = ([0, 1, 2, 3], random.Random(0))
    worker = multiprocessing.get_context("fork").Process(target=source.batch, args=arguments)
    caplog.clear()
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    source.batch(*arguments)
    assert caplog.records == []


def test_a_set_without_a_usable_clip_is_an_error(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="0 usable of 7 videos.*a.mp4: it is 0.33 s long"):
        open_folder(clip_settings(videos), 121, 3, tmp_path / "clips.json")
    with pytest.raises(ConfigError, match="5 usable of 7 videos, and more than data.held_out=5"):
        open_folder(clip_settings(videos, held_out=5), 5, 3, tmp_path / "clips.json")


def test_a_clip_covers_its_size_at_the_rate_that_is_asked_for(videos: Path) -> None:
    wide = read_clip(videos / "a.mp4", Geometry(160, 96, 5), fps=24.0)
    assert wide.shape == (5, 96, 160, 3)
    square = read_clip(videos / "a.mp4", Geometry(96, 96, 5), fps=24.0)
    assert np.abs(square.astype(float) - wide[:, :, 32:128]).mean() < 2
    half = read_clip(videos / "a.mp4", Geometry(160, 96, 1), fps=12.0, start=2 / 24)
    assert np.abs(half[0].astype(float) - wide[2]).mean() < 2


def test_an_anchor_is_smaller_and_blurred_as_the_reference_has_it() -> None:
    video = torch.randint(0, 256, (1, 3, 9, 256, 384), dtype=torch.uint8)
    size, rule = Geometry(192, 128, 9), DegradationSettings(shrink=[8.0, 8.0], blurred=0.0)
    exact = torch.nn.functional.interpolate(
        (video[0].transpose(0, 1).float() / 127.5 - 1).unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5)),
        (128, 192),
        mode="bilinear",
    )
    plain = degraded(video, size, rule, random.Random(0))
    assert torch.allclose(plain[0].transpose(0, 1), exact, atol=1e-5)
    blurred = degraded(video, size, DegradationSettings(), random.Random(0))
    assert blurred.shape == (1, 3, 9, 128, 192)
    assert roughness(blurred) < 0.3 * roughness(plain)


def roughness(video: Tensor) -> float:
    return float(video.diff(dim=-1).square().mean() / video.square().mean())


class Numbers(Source):
    """Examples that are their own numbers."""

    identity = "numbers"

    def size(self, step: int) -> int:
        return 40

    def batch(self, rows: Any, draw: random.Random) -> dict[str, Any]:
        return {"rows": list(rows), "drawn": draw.random()}


def first(batches: Any, count: int) -> list[dict[str, Any]]:
    return [batch for _, batch in zip(range(count), batches, strict=False)]


def test_the_order_of_the_data_depends_on_seed_and_step_alone() -> None:
    whole = first(Batches(Numbers(), 4, seed=1, first=0), 8)
    assert first(Batches(Numbers(), 4, seed=1, first=5), 3) == whole[5:]
    assert first(Batches(Numbers(), 4, seed=2, first=0), 8) != whole
    loader = torch.utils.data.DataLoader(
        Batches(Numbers(), 4, seed=1, first=2), batch_size=None, num_workers=2
    )
    assert first(loader, 6) == whole[2:]


def test_crops_show_clips_of_both_sizes_and_degraded_anchors(tmp_path: Path) -> None:
    plain = DegradationSettings(shrink=[], blurred=0.0)
    worst = DegradationSettings(shrink=[4.0, 4.0], blurred=1.0, kernels=[5], deviation=[2.0, 2.0])
    config = small_training(BACKBONE, tmp_path, tmp_path, "vae")
    clips = []
    for rule in (plain, worst):
        config = replace(config, data=replace(config.data, degradation=rule))
        clips.append([clip_of(config, seed, "train")[1].astype(float) for seed in range(40)])
    small, large = (5, 32, 64, 3), (5, 64, 128, 3)
    pairs = list(zip(*clips, strict=True))
    blurred = [pair for pair in pairs if not np.array_equal(*pair)]
    assert {pair[0].shape for pair in pairs} == {small, large}
    assert {pair[0].shape for pair in blurred} == {small}
    # half of the clips have the anchor's size, and half of those are degraded
    assert 14 <= sum(pair[0].shape == small for pair in pairs) <= 26
    assert 5 <= len(blurred) <= 15
    for pair in blurred:
        steps = [np.abs(np.diff(clip, axis=2)).max() for clip in pair]
        assert steps[1] < 0.6 * steps[0]


@pytest.mark.parametrize("share, side", [(0.0, 64), (1.0, 32)])
def test_the_share_of_anchors_among_the_crops_is_a_setting(
    share: float, side: int, tmp_path: Path
) -> None:
    config = small_training(BACKBONE, tmp_path, tmp_path, "vae")
    config = replace(config, data=replace(config.data, anchor_share=share))
    assert {clip_of(config, seed, "train")[1].shape[1] for seed in range(12)} == {side}


def test_crops_are_the_same_however_many_processes_cut_them(tmp_path: Path) -> None:
    config = small_training(BACKBONE, tmp_path, tmp_path, "vae")
    whole = first(CropBatches(config, 0), 6)
    loader = torch.utils.data.DataLoader(CropBatches(config, 2), batch_size=None, num_workers=2)
    for batch, expected in zip(first(loader, 4), whole[2:], strict=True):
        assert batch["step"] == expected["step"]
        assert torch.equal(batch["video"], expected["video"])


def test_ranks_share_a_batch_without_overlap() -> None:
    shares = [first(Batches(Numbers(), 2, 1, 0, rank, 2), 6) for rank in range(2)]
    for one, two in zip(*shares, strict=True):
        assert not set(one["rows"]) & set(two["rows"])
        assert one["drawn"] != two["drawn"]
    assert [b["rows"] for b in shares[0]] != [b["rows"] for b in shares[1]]


def test_what_a_step_draws_from_does_not_depend_on_how_fast_latents_are_written(
    tmp_path: Path,
) -> None:
    waited: list[str] = []
    shards = Shards(tmp_path, "train", count=11, shard=2)
    source = GrowingExamples(shards, "", 4, 0.5, lambda path: waited.append(path.name))
    assert [source.size(step) for step in (0, 3, 4, 7, 8, 100)] == [4, 4, 6, 6, 8, 11]
    with pytest.raises(ValueError, match="train-00002.safetensors is gone"):
        source.batch([5], random.Random(0))
    assert waited == ["train-00002.safetensors"]


class Large(Dataset[dict[str, Any]]):
    """Six items of a megabyte."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"video": [torch.full((1 << 18,), index)], "text": torch.ones(2).bfloat16()}


def test_what_other_processes_read_takes_no_shared_memory() -> None:
    items = list(Loader(Large(), workers=2))
    assert [int(item["video"][0][-1]) for item in items] == list(range(6))
    assert not any(item["video"][0].is_shared() for item in items)
    assert items[0]["text"].dtype == torch.bfloat16


class Deadly(Large):
    """Kills the process that reads its fourth item."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_process_that_reads_and_is_killed_ends_the_job_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "work_of", lambda config: lambda *_: list(Loader(Deadly(), 1)))
    with pytest.raises(WorkStopped, match="a process that reads examples was killed"):
        worker._worked(None, None)


def test_a_killed_reader_fails_the_next_item_and_nothing_else() -> None:
    items = iter(Loader(Large(), workers=1))
    next(items)
    (reader,) = multiprocessing.active_children()
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGKILL)
    os.waitid(os.P_PID, reader.pid, os.WEXITED | os.WNOWAIT)
    time.sleep(0.1)  # torch's handler of SIGCHLD would raise here
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(items)


def test_a_full_disk_that_names_no_file_is_the_run_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert worker._explain(OSError(errno.ENOSPC, "No space left on device"), tmp_path) == 2
    assert f"{tmp_path}: the disk is full, " in capsys.readouterr().err


@pytest.mark.parametrize("kind", [VideoError, ProcessLost])
def test_a_lost_ffmpeg_ends_the_job_with_a_sentence(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> int:
        raise kind("ffmpeg was killed")

    monkeypatch.setattr(worker, "work_of", lambda config: lost)
    with pytest.raises(WorkStopped, match="ffmpeg was killed; the same command continues"):
        worker._worked(None, None)


def test_encoding_processes_that_were_killed_are_missed(tmp_path: Path) -> None:
    cache = object.__new__(Cache)
    cache.fillings, cache.line, cache.processes = (), Line(), [multiprocessing.Process()]
    cache.failures, failed = multiprocessing.Pipe(duplex=False)
    failed.close()  # as when the last of them ends
    with pytest.raises(ProcessLost, match="that encode the training clips were killed"):
        cache.wait(tmp_path / "shard")


def tensors_of(path: Path) -> bytes:
    """The content of a shard without its header, whose entries have no order."""
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def flip(path: Path) -> None:
    """One wrong bit in the last tensor."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_encoded_clips_train_like_clips(
    backbone: BackboneSettings, videos: Path, tmp_path: Path, caplog: Any, capsys: Any
) -> None:
    made = EncodeConfig(
        run_dir=str(tmp_path / "latents"),
        backbone=backbone,
        resolution=SIZE,
        data=clip_settings(videos),
    )
    claim(made, ["encode"])
    with caplog.at_level(logging.WARNING):
        assert encode(made) == 0
    assert sum("torn.mp4" in record.getMessage() for record in caplog.records) == 1
    folder = tmp_path / "latents"
    facts = json.loads((folder / "latents.json").read_text())
    assert facts["examples"] == {"train": 3, "heldout": 1}
    lost, flipped = folder / "train-00001.safetensors", folder / "train-00000.safetensors"
    before = [tensors_of(lost), tensors_of(flipped)]
    lost.unlink()
    flip(flipped)
    assert encode(replace(made, data=replace(made.data, workers=2))) == 0
    assert f"{flipped} is damaged; it was removed and is written again" in capsys.readouterr().err
    assert [tensors_of(lost), tensors_of(flipped)] == before

    from_latents = training_on(
        backbone, tmp_path / "one", DataSettings(kind="latents", dir=str(folder))
    )
    sources = open_sources(from_latents)
    assert sources.held_out is not None
    (batch,) = HeldOut(sources.held_out, 2)
    assert batch["latent"].shape == (1, 4, 2, 4, 8) and batch["condition"].shape == (1, 4, 2, 2, 4)
    split = {name: one["split"] for name, one in json.loads((folder / PROBED).read_text()).items()}
    (held_out,) = [name for name, part in split.items() if part == "heldout"]
    assert f"{held_out},{batch['caption'][0]}," in TABLE and batch["text"][0].shape[1] == 16
    assert train(from_latents) == 0
    for data in (from_latents.data, clip_settings(videos)):
        few_step_objectives_learn_from(replace(from_latents, data=data))
    assert train(training_on(backbone, tmp_path / "two", clip_settings(videos))) == 0

    flip(flipped)
    damaged = open_sources(from_latents).train
    with pytest.raises(ValueError, match="train-00000.safetensors is damaged"):
        damaged.batch(range(damaged.size(0)), random.Random(0))
    shifted = replace(from_latents, resolution=replace(SIZE, shift=9.0, anchor_shift=9.0))
    assert open_sources(shifted).train.size(0) == 3
    other = replace(from_latents, resolution=replace(SIZE, width=160))
    with pytest.raises(ValueError, match=r"other settings \(they differ in resolution.width\)"):
        open_sources(other)
    with pytest.raises(ValueError, match="holds no complete set of latents"):
        open_sources(replace(other, data=replace(other.data, dir=str(videos))))


def few_step_objectives_learn_from(config: TrainConfig) -> None:
    """Every one of them gets gradients from a batch of the configuration's data."""
    batch = next(iter(Batches(open_sources(config).train, 2, seed=0, first=0)))
    for name in FEW_STEP:
        module: Any = make_module(
            replace(config, objective=ObjectiveSettings(batch=2, **few_step(name)))
        )
        module.loss(module.network, batch).backward()
        found = [p.grad for n in module.trained for p in n[0].parameters() if p.grad is not None]
        assert found and all(torch.isfinite(gradient).all() for gradient in found), name


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(captions="a.csv"), "data.captions=a.csv is for data=clips; leave it out"),
        (dict(kind="latents", shard=8), "data.shard=8 is for data=shapes or data=clips"),
        (dict(degradation=DegradationSettings(kernels=[8])), "kernels.* must be odd; nearest: 9"),
        (
            dict(degradation=DegradationSettings(shrink=[4.0])),
            "shrink=.* must be the least and the greatest",
        ),
        (dict(growth=-1.0), "data.growth=-1.0 must be at least 0"),
    ],
)
def test_impossible_data_is_refused(
    backbone: BackboneSettings, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    config = training_on(backbone, tmp_path, DataSettings())
    with pytest.raises(ConfigError, match=sentence):
        check(replace(config, data=replace(config.data, **changes)))
