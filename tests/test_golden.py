"""Equality with the official modules, on tensors recorded from them (see golden/README.md)."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pixelwizard.settings import DiTSizes
from pixelwizard.shortcut.network import ShortcutDiT
from pixelwizard.wan.dit import WanDiT

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


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_detail_network_equals_the_official_one(dit: GoldenDiT, grad: bool) -> None:
    network = dit.detail()
    with torch.set_grad_enabled(grad):
        features = network.encode_anchor(dit.io["lr"], tuple(dit.io["lr"].shape[2:]))
        text = network.encode_text(dit.context)
        actual = network(dit.io["x"], dit.io["t"], text, dit.io["dt"], features)
    assert relative_error(actual, dit.io["y_hr"]) < TOLERANCE
