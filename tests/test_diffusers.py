"""The same weights through diffusers: equal networks, equal solver, equal names, official sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pixelwizard.bench.peers import their_dit, their_vae
from pixelwizard.config.backbone import DiTSizes, TextSizes, VAESizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.diffusion.sampling import sample
from pixelwizard.diffusion.schedules import make_schedule
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.layouts import official_dit, official_text, official_vae
from pixelwizard.models.wan.umt5 import official_shapes
from pixelwizard.models.wan.vae import WanVAE

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-4


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def shapes(network: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def take_over(theirs: nn.Module, ours: nn.Module, names: dict[str, Any]) -> None:
    """Give their network our weights; ``names`` maps our names to theirs, all of them."""
    state = ours.state_dict()
    theirs.load_state_dict({names[name]: tensor for name, tensor in state.items()}, strict=True)
    theirs.eval()


@torch.no_grad()
def test_the_transformer_equals_that_of_diffusers(golden: Path) -> None:
    config = json.loads((golden / "dit.json").read_text())["config"]
    sizes = DiTSizes(**{key: config[key] for key in DiTSizes.__dataclass_fields__ if key in config})
    io, weights = (load_file(golden / f"dit_{part}.safetensors") for part in ("io", "weights"))
    ours, theirs = WanDiT(sizes), their_dit(sizes)
    ours.load_state_dict({name: weights[name] for name in ours.state_dict()})
    take_over(theirs, ours, official_dit({name: name for name in theirs.state_dict()}))

    texts = [io[name] for name in sorted(io) if name.startswith("context_")]
    padded = torch.zeros(len(texts), sizes.text_len, sizes.text_dim)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    expected = theirs(io["x"], io["t"], padded, return_dict=False)[0]
    assert relative_error(expected, io["y_base"]) < TOLERANCE
    assert relative_error(ours(io["x"], io["t"], ours.encode_text(texts)), expected) < TOLERANCE


@torch.no_grad()
def test_the_autoencoder_equals_that_of_diffusers(golden: Path) -> None:
    config = json.loads((golden / "vae.json").read_text())["config"]
    io, weights = (load_file(golden / f"vae_{part}.safetensors") for part in ("io", "weights"))
    sizes = VAESizes(
        z_dim=config["z_dim"],
        dim=config["dim"],
        dec_dim=config["dec_dim"],
        dim_mult=config["dim_mult"],
        num_res_blocks=config["num_res_blocks"],
        temporal_downsample=config["temperal_downsample"],
        latent_mean=io["mean"].tolist(),
        latent_std=io["std"].tolist(),
    )
    ours, theirs = WanVAE(sizes), their_vae(sizes)
    ours.load_state_dict(weights)
    names = {name: name for name in theirs.state_dict()}
    take_over(theirs, ours, official_vae(names, sizes.num_res_blocks))

    mean, std = (io[name].view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    latent = (theirs.encode(io["video"]).latent_dist.mode() - mean) / std
    assert relative_error(ours.encode(io["video"]), latent) < TOLERANCE
    video = theirs.decode(io["z"] * std + mean, return_dict=False)[0]  # clamped
    assert relative_error(ours.decode(io["z"]).clamp(-1, 1), video) < TOLERANCE


@pytest.mark.parametrize(("steps", "shift"), [(4, 5.5), (4, 5.8), (20, 5.0), (50, 5.0)])
def test_unipc_equals_that_of_diffusers(steps: int, shift: float) -> None:
    """On the sigmas of Wan2.2, from 0.999: the scheduler's own grid would begin at 1."""
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(sigmas=torch.linspace(0.999, 0, steps + 1).double().numpy()[:-1])
    schedule = make_schedule(SamplerSettings(solver="unipc", steps=steps), shift)
    assert torch.allclose(torch.tensor(schedule.sigmas), scheduler.sigmas, atol=1e-6)
    times = scheduler.timesteps.tolist()
    pairs = zip(schedule.steps, times, strict=True)
    assert all(abs(step.timestep - time) <= 1 for step, time in pairs), "921.0 may become 920"

    generator = torch.Generator().manual_seed(0)
    noise, mix = torch.randn(1, 4, 2, 3, 3, generator=generator), torch.eye(4).roll(1, 0)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        return torch.tanh(torch.einsum("ij,bjthw->bithw", mix, x) + sigma)

    expected = noise
    for timestep, step in zip(scheduler.timesteps, schedule.steps, strict=True):
        output = velocity(expected, step.sigma)
        expected = scheduler.step(output, timestep, expected, return_dict=False)[0]
    actual = sample(lambda x, step: velocity(x, step.sigma), noise, schedule)
    assert relative_error(actual, expected) < TOLERANCE


def test_the_full_size_transformer_has_the_official_names_and_sizes() -> None:
    """825 tensors, and the bytes of the three published float32 shards but for their headers."""
    with torch.device("meta"):
        ours, theirs = WanDiT(DiTSizes()), their_dit(DiTSizes())
    assert official_dit(shapes(theirs)) == shapes(ours)
    parameters = sum(tensor.numel() for tensor in ours.state_dict().values())
    assert (len(ours.state_dict()), parameters) == (825, 4_999_787_712)
    shards = 9_825_014_472 + 9_995_661_736 + 178_558_176
    assert 0 < shards - 4 * parameters < 150 * 825


def test_the_full_size_autoencoder_has_the_official_names_and_sizes() -> None:
    with torch.device("meta"):
        ours, theirs = WanVAE(VAESizes()), their_vae(VAESizes())
    assert official_vae(shapes(theirs), VAESizes().num_res_blocks) == shapes(ours)
    parameters = sum(tensor.numel() for tensor in ours.state_dict().values())
    assert parameters == 704_688_668
    assert 0 < 2_818_777_808 - 4 * parameters < 150 * len(ours.state_dict())


def test_the_full_size_text_encoder_has_the_official_sizes() -> None:
    """242 tensors of 5,680,910,336 values in the published file, two bytes each."""
    expected = official_shapes(TextSizes())
    parameters = sum(torch.Size(shape).numel() for shape in expected.values())
    assert (len(expected), parameters) == (242, 5_680_910_336)
    assert 0 < 11_361_920_418 - 2 * parameters < 500 * 242


def test_the_text_encoder_of_a_diffusers_folder_is_renamed_whole() -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    sizes = TextSizes(vocab_size=8, dim=16, dim_attn=16, dim_ffn=24, num_heads=2, num_layers=2)
    config = UMT5Config(
        vocab_size=8, d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.device("meta"):
        theirs = UMT5EncoderModel(config)
    assert official_text(shapes(theirs), 2) == official_shapes(sizes)


def test_a_bench_against_diffusers_compares_equal_results() -> None:
    from pixelwizard.bench.peers import Autoencoders, Transformers, compared

    dit = DiTSizes(dim=64, num_heads=2, ffn_dim=96, num_layers=2, text_dim=16, text_len=8)
    vae = VAESizes(dim=8, dec_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    for pair in (Transformers(dit, (2, 4, 4)), Autoencoders(vae, (2, 2, 2))):
        found = compared(pair, torch.device("cpu"), torch.float32)
        assert found.difference < TOLERANCE
        assert found.seconds > 0 and found.their_seconds > 0
        assert found.peak_units > 1 and found.their_peak_units > 1
