"""What only a GPU can show; skipped without one. ``make gpu`` runs these and the full bench."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from small import small_config, small_training, write_backbone, write_config
from test_golden import TINY, GoldenDiT, sizes_from
from torch import Tensor

from pixelwizard import worker
from pixelwizard.bench.measuring import random_anchor
from pixelwizard.config.backbone import BackboneSettings, DiTSizes, TextSizes, VAESizes
from pixelwizard.config.generate import MemorySettings, SamplerSettings
from pixelwizard.config.geometry import Geometry
from pixelwizard.data.examples import Recipe
from pixelwizard.data.latents import Encoding, LatentExamples, Shards, fill
from pixelwizard.data.sources import open_clips, open_sources
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.checkpoints import find_weights
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.umt5 import TextEncoder, load_tokenizer
from pixelwizard.models.wan.vae import WanVAE
from pixelwizard.planning.transformer_cost import Sampling, cost_of_sampling
from pixelwizard.stages.latents import Anchor
from pixelwizard.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CUDA = torch.device("cuda")
PRECISIONS = [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)]
"""Type and largest error; bfloat16 has 8 bits, and what it rounds adds up over the layers."""


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    """float32 is float32: cuDNN's convolutions would take TF32, which has 10 bits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def error(actual: Tensor, expected: Tensor) -> float:
    """The length of the difference, relative to that of what is expected."""
    actual, expected = actual.float().cpu(), expected.float().cpu()
    return ((actual - expected).norm() / expected.norm()).item()


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("chunk", [7, 8192])
def test_the_golden_transformers(
    golden: Path, dtype: torch.dtype, tolerance: float, chunk: int
) -> None:
    dit = GoldenDiT(golden)
    io = {name: tensor.to(CUDA) for name, tensor in dit.io.items()}
    context = [text.to(CUDA) for text in dit.context]
    base, detail = dit.base().to(CUDA, dtype), dit.detail().to(CUDA, dtype)
    base.chunk = detail.chunk = chunk
    velocity = base(io["x"], io["t"], base.encode_text(context))
    assert error(velocity, io["y_base"]) < tolerance
    features = detail.encode_anchor(io["lr"], tuple(io["lr"].shape[2:]))
    velocity = detail(io["x"], io["t"], detail.encode_text(context), io["dt"], features)
    assert error(velocity, io["y_hr"]) < tolerance


def golden_text_encoder(golden: Path) -> tuple[TextEncoder, dict[str, Tensor]]:
    """The encoder of the golden set on the host, and its tensors."""
    settings = json.loads((golden / "umt5.json").read_text())
    io = load_file(golden / "umt5_io.safetensors")
    tokenizer = load_tokenizer(TINY / "google/umt5-xxl")
    encoder = TextEncoder(sizes_from(TextSizes, settings["config"]), tokenizer, io["ids"].shape[1])
    encoder.load_official(load_file(golden / "umt5_weights.safetensors"))
    return encoder.eval().requires_grad_(False), io


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_golden_text_encoder_resident_and_streamed(
    golden: Path, dtype: torch.dtype, tolerance: float
) -> None:
    found = []
    for stream in (False, True):
        encoder, io = golden_text_encoder(golden)
        encoder.to(dtype)
        if stream:
            encoder.stream_from_host(CUDA, asynchronous=True)
        else:
            encoder.to(CUDA)
        lengths = io["mask"].sum(1).tolist()
        pairs = zip(io["ids"], lengths, strict=True)
        found.append([encoder.encode(ids[:length]) for ids, length in pairs])
    for resident, streamed, expected in zip(*found, io["hidden"], strict=True):
        assert torch.equal(resident, streamed) and resident.device.type == "cuda"
        assert error(resident, expected[: len(resident)]) < tolerance


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_golden_autoencoder(golden: Path, dtype: torch.dtype, tolerance: float) -> None:
    official = json.loads((golden / "vae.json").read_text())["config"]
    io = load_file(golden / "vae_io.safetensors")
    names = ("z_dim", "dim", "dec_dim", "dim_mult", "num_res_blocks")
    sizes = VAESizes(
        **{name: official[name] for name in names},
        temporal_downsample=official["temperal_downsample"],
        latent_mean=io["mean"].tolist(),
        latent_std=io["std"].tolist(),
    )
    vae = WanVAE(sizes)
    vae.load_state_dict(load_file(golden / "vae_weights.safetensors"))
    vae.to(CUDA, dtype)
    for result, expected in (
        (vae.encode(io["video"].to(CUDA, dtype)), io["latent"]),
        (vae.decode(io["z"].to(CUDA, dtype)), io["decoded"]),
    ):
        assert error(result, expected) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 7])
def test_blocks_from_pinned_memory_give_the_bits_of_resident_ones(layers: int) -> None:
    torch.manual_seed(0)
    sizes = DiTSizes(dim=1024, ffn_dim=4096, num_heads=8, num_layers=layers, text_dim=64)
    backbone = BackboneSettings(dit=sizes)
    network = random_anchor(backbone, torch.device("cpu"), torch.bfloat16)
    resident = WanDiT(sizes).to(CUDA, torch.bfloat16).requires_grad_(False)
    resident.load_state_dict(network.state_dict())
    network.stream_from_host(CUDA, asynchronous=True)
    assert all(weight.is_pinned() for weight in network.blocks.parameters())
    text = torch.randn(40, sizes.text_dim, device=CUDA)
    for step in range(4):  # copies that come too early or too late show in some forward
        latent = torch.randn(1, sizes.in_dim, 5, 32, 32, device=CUDA)
        time = torch.full((1,), 900.0 - 200 * step, device=CUDA)
        expected, found = (
            either(latent, time, either.encode_text([text])) for either in (resident, network)
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("stream", [False, True])
def test_the_allocators_peak_is_the_planned_one(stream: bool) -> None:
    sizes = replace(DiTSizes(), num_layers=4)
    schedule = make_schedule(SamplerSettings(steps=3), 5.0)
    geometry = Geometry(448, 256, 121)
    stage = Sampling(
        *(sizes, 0, geometry, None, schedule, 5.0),
        *(torch.bfloat16, torch.float32),
    )
    planned = cost_of_sampling(stage, stream, chunk=2048).peak
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    device = torch.device("cpu") if stream else CUDA
    network = random_anchor(BackboneSettings(dit=sizes), device, torch.bfloat16)
    network.chunk = 2048
    if stream:
        network.stream_from_host(CUDA, asynchronous=True)
    noise = torch.randn(sizes.in_dim, *geometry.latent_grid, device=CUDA)
    first, second = torch.randn(
        2, sizes.text_len, sizes.text_dim, device=CUDA, dtype=torch.bfloat16
    )
    Anchor(network, schedule, 5.0)(noise, first, second)
    measured = torch.cuda.max_memory_allocated() - before
    assert measured == pytest.approx(planned, rel=0.05)


@pytest.mark.parametrize("part", ["vae", "anchor", "detail"])
def test_a_small_training_writes_its_export(tmp_path: Path, part: str) -> None:
    config = small_training(write_backbone(tmp_path / "weights"), tmp_path, tmp_path, part)
    config = replace(config, trainer=replace(config.trainer, precision="bf16-mixed"))
    train(config)
    losses = [row["loss"] for row in csv.DictReader((tmp_path / "log.csv").open()) if row["loss"]]
    assert len(losses) == 6 and all(math.isfinite(float(loss)) for loss in losses)
    weights = find_weights(replace(config.backbone, folder=str(tmp_path / "export")), part)
    assert all(tensor.isfinite().all() for tensor in load_file(weights).values())


def test_the_training_clips_of_a_gpu_are_those_of_a_cpu(tmp_path: Path) -> None:
    config = small_training(write_backbone(tmp_path / "weights"), tmp_path, tmp_path, "detail")
    sources = open_sources(config)
    recipe = Recipe(config.part, config.resolution, config.data.degradation, seed=0)
    clips = open_clips(config)["train"]
    shards = Shards(tmp_path / "cpu", "train", len(clips), config.data.shard)
    shards.folder.mkdir()
    for _ in fill(Encoding(config.backbone, torch.bfloat16), clips, shards, recipe, "cpu"):
        pass
    rows, draw = range(len(clips)), random.Random(0)
    on_gpu = sources.train.batch(rows, draw)
    on_cpu = LatentExamples(shards, "").batch(rows, draw)
    for name in ("latent", "condition"):
        assert error(on_gpu[name], on_cpu[name]) < 5e-2


@pytest.mark.parametrize("mode", ["auto", "offload", "stream"])
def test_a_small_run_makes_its_videos(
    tmp_path: Path, mode: Literal["auto", "offload", "stream"]
) -> None:
    config = small_config(write_backbone(tmp_path / "weights"), tmp_path)
    config = replace(config, memory=MemorySettings(mode=mode))
    assert worker.run(write_config(config)) == 0
    videos = sorted((Path(config.run_dir) / "videos").glob("*.json"))
    assert len(videos) == 2
    for path in videos:
        record = json.loads(path.read_text())
        assert record["device"] == torch.cuda.get_device_name()
        assert record["stages"]["detail"]["peak_gb"] > 0
        assert path.with_suffix(".mp4").is_file()
