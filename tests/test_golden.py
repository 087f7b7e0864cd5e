"""Equality with the official modules, on tensors recorded from them (see golden/README.md)."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings, DiTSizes, TextSizes, VAESizes
from pixelwizard.config.generate import SamplerSettings
from pixelwizard.diffusion.sampling import SolverState, guided, sample
from pixelwizard.diffusion.schedules import Step, make_schedule
from pixelwizard.models.shortcut.network import ShortcutDiT
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.wan.quantised import (
    quantise_linears,
    quantised,
    quantised_names,
    scale_name,
)
from pixelwizard.models.wan.umt5 import TextEncoder, load_tokenizer
from pixelwizard.models.wan.vae import WanVAE, to_pixels
from pixelwizard.models.weights import load_detail

TINY = Path(__file__).parents[1] / "pixelwizard/assets/tiny"
TOLERANCE = 1e-4


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def sizes_from(cls: type, config: dict[str, Any]) -> Any:
    """The fields of ``cls`` that ``config`` names; the others keep their defaults."""
    return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})


class GoldenDiT:
    """The networks and tensors of the sets ``dit`` and ``two_stage``."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "dit.json").read_text())
        self.sizes = sizes_from(DiTSizes, settings["config"])
        self.control_blocks = settings["control_blocks"]
        self.weights = load_file(folder / "dit_weights.safetensors")
        self.io = load_file(folder / "dit_io.safetensors")
        self.context = [self.io[k] for k in sorted(self.io) if k.startswith("context_")]

    def base(self) -> WanDiT:
        network = WanDiT(self.sizes)
        names = network.state_dict().keys()
        network.load_state_dict({k: self.weights[k] for k in names})
        return network

    def detail(self) -> ShortcutDiT:
        network = ShortcutDiT(self.sizes, self.control_blocks)
        network.load_state_dict(self.weights)
        return network


@pytest.fixture(scope="module")
def dit(golden: Path) -> GoldenDiT:
    return GoldenDiT(golden)


@torch.no_grad()
def test_base_network_equals_the_official_one(dit: GoldenDiT) -> None:
    network = dit.base()
    actual = network(dit.io["x"], dit.io["t"], network.encode_text(dit.context))
    assert relative_error(actual, dit.io["y_base"]) < TOLERANCE
    network.chunk, network.lean, network.text_on_host = 5, True, True
    lean = network(dit.io["x"], dit.io["t"], network.encode_text(dit.context))
    assert relative_error(lean, dit.io["y_base"]) < TOLERANCE


@pytest.mark.parametrize(("kind", "most"), [("fp8", 0.02), ("int8", 0.006)])
@torch.no_grad()
def test_in_8_bits_the_networks_stay_near_the_official_ones(
    dit: GoldenDiT, kind: str, most: float
) -> None:
    network, weights = dit.detail(), dict(dit.weights)
    for name in quantised_names(network):
        weights[name], weights[scale_name(name)] = quantised(weights[name], kind)
    quantise_linears(network, kind)
    network.load_state_dict(weights)
    features = network.encode_anchor(dit.io["lr"], tuple(dit.io["lr"].shape[2:]))
    text = network.encode_text(dit.context)
    actual = network(dit.io["x"], dit.io["t"], text, dit.io["dt"], features)
    difference, expected = actual - dit.io["y_hr"], dit.io["y_hr"]
    assert difference.square().mean().sqrt() < most * expected.square().mean().sqrt()


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_detail_network_equals_the_official_one(dit: GoldenDiT, grad: bool) -> None:
    network = dit.detail()
    with torch.set_grad_enabled(grad):
        features = network.encode_anchor(dit.io["lr"], tuple(dit.io["lr"].shape[2:]))
        text = network.encode_text(dit.context)
        actual = network(dit.io["x"], dit.io["t"], text, dit.io["dt"], features)
    assert relative_error(actual, dit.io["y_hr"]) < TOLERANCE


def test_solvers_follow_the_official_ones_step_by_step(golden: Path) -> None:
    io = load_file(golden / "solvers_io.safetensors")
    runs = [match for name in io if (match := re.fullmatch(r"([a-z]+)_(\d+)_s([\d.]+)", name))]
    assert runs

    def velocity(x: Tensor, step: Step) -> Tensor:
        return torch.tanh(torch.einsum("ij,bjthw->bithw", io["mix"], x) + step.timestep / 1000)

    for run in runs:
        name, (solver, steps, shift) = run.group(), run.groups()
        schedule = make_schedule(SamplerSettings(solver=solver, steps=int(steps)), float(shift))
        states: list[SolverState] = []
        sample(velocity, io["x_start"], schedule, on_step=states.append)
        assert [step.timestep for step in schedule.steps] == io[f"{name}_t"].tolist()
        assert torch.allclose(torch.tensor(schedule.sigmas), io[f"{name}_sigma"], atol=1e-6)
        latents = torch.stack([state.latent for state in states])
        for actual, expected in zip(latents, io[name], strict=True):
            assert relative_error(actual, expected) < TOLERANCE, name


@torch.no_grad()
def test_two_stages_end_where_the_official_ones_do(golden: Path, dit: GoldenDiT) -> None:
    settings = json.loads((golden / "two_stage.json").read_text())
    io = load_file(golden / "two_stage_io.safetensors")
    solver, guidance = settings["solver"], settings["guidance"]

    base = dit.base()
    texts = [base.encode_text([io[name]]) for name in ("context", "context_null")]
    passes = [
        lambda x, step, text=text: base(x, torch.tensor([step.timestep]), text) for text in texts
    ]
    sampler = SamplerSettings(solver=solver, steps=settings["lr_steps"], guidance=guidance)
    schedule = make_schedule(sampler, settings["lr_shift"])
    anchor = sample(guided(*passes, guidance), io["noise_lr"], schedule)
    assert relative_error(anchor, io["lr"]) < TOLERANCE

    detail = dit.detail()
    texts = [detail.encode_text([io[name]]) for name in ("context", "context_null")]
    frames, height, width = io["noise_hr"].shape[2:]
    features = detail.encode_anchor(anchor, (frames, height // 2, width // 2))
    passes = [
        lambda x, step, text=text: detail(
            x, torch.tensor([step.timestep]), text, torch.tensor([step.dt]), features
        )
        for text in texts
    ]
    sampler = SamplerSettings(
        solver=solver, steps=settings["hr_steps"], guidance=guidance, step_sizes="raw"
    )
    schedule = make_schedule(sampler, settings["hr_shift"])
    result = sample(guided(*passes, guidance), io["noise_hr"], schedule)
    assert relative_error(result, io["hr"]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("part", ["generator", "generator_ema"])
def test_a_trainers_container_gives_the_detail_network(
    golden: Path, dit: GoldenDiT, tmp_path: Path, part: str
) -> None:
    file = tmp_path / "model.pt"
    torch.save({part: torch.load(golden / "hr_model.pt", weights_only=True)[part]}, file)
    for path in (file, golden / "hr_model.pt"):
        network = load_detail(BackboneSettings(dit=dit.sizes, detail=str(path)))
        assert list(network.spatial_adapter.zero_layers) == [str(k) for k in dit.control_blocks]
        features = network.encode_anchor(dit.io["lr"], tuple(dit.io["lr"].shape[2:]))
        text = network.encode_text(dit.context)
        actual = network(dit.io["x"], dit.io["t"], text, dit.io["dt"], features)
        assert relative_error(actual, dit.io["y_hr"]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("stream", [False, True])
def test_text_encoder_equals_the_official_one(golden: Path, stream: bool) -> None:
    settings = json.loads((golden / "umt5.json").read_text())
    io = load_file(golden / "umt5_io.safetensors")
    tokenizer = load_tokenizer(TINY / "google/umt5-xxl")
    encoder = TextEncoder(sizes_from(TextSizes, settings["config"]), tokenizer, io["ids"].shape[1])
    encoder.load_official(load_file(golden / "umt5_weights.safetensors"))
    if stream:
        encoder.requires_grad_(False).stream_from_host(torch.device("cpu"), asynchronous=False)
    lengths = io["mask"].sum(1).tolist()
    for ids, expected, length in zip(io["ids"], io["hidden"], lengths, strict=True):
        hidden = encoder.eval().encode(ids[:length])
        assert relative_error(hidden, expected[:length]) < TOLERANCE


def golden_autoencoder(folder: Path) -> tuple[WanVAE, dict[str, Tensor]]:
    """The network and the tensors of the set ``vae``."""
    official = json.loads((folder / "vae.json").read_text())["config"]
    io = load_file(folder / "vae_io.safetensors")
    sizes = VAESizes(
        z_dim=official["z_dim"],
        dim=official["dim"],
        dec_dim=official["dec_dim"],
        dim_mult=official["dim_mult"],
        num_res_blocks=official["num_res_blocks"],
        temporal_downsample=official["temperal_downsample"],
        latent_mean=io["mean"].tolist(),
        latent_std=io["std"].tolist(),
    )
    vae = WanVAE(sizes)
    vae.load_state_dict(load_file(folder / "vae_weights.safetensors"))
    return vae.requires_grad_(False), io


def test_the_autoencoder_equals_the_official_one(golden: Path) -> None:
    vae, io = golden_autoencoder(golden)
    assert relative_error(vae.encode(io["video"]), io["latent"]) < TOLERANCE
    assert relative_error(vae.decode(io["z"]), io["decoded"]) < TOLERANCE
    rounded = vae.to(torch.bfloat16).decode(io["z"])[0]
    assert decibels(to_pixels(rounded), to_pixels(io["decoded"][0])) > 45


def decibels(pixels: Tensor, expected: Tensor) -> float:
    """PSNR of frames, uint8."""
    error = (pixels.double() - expected.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))
