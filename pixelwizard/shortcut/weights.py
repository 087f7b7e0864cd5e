"""The detail network's weights: PixelWizard's containers or safetensors."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pixelwizard.checkpoints import NAMES, find_weights
from pixelwizard.settings import BackboneSettings
from pixelwizard.shortcut.network import ShortcutDiT
from pixelwizard.wan.weights import fill, has_adapter, read_tensors, save, unwrap

_CONTROL = re.compile(r"spatial_adapter\.zero_layers\.(\d+)\.weight")


def load_detail(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ShortcutDiT:
    """Load the detail network; which blocks it controls is read from the names of its weights.

    Raises ValueError if its file is missing, broken or another network's.
    """
    path = find_weights(backbone, "detail")
    tensors = unwrap(read_tensors(path), path)
    if not has_adapter(tensors):
        raise ValueError(f"{path} has no spatial adapter: it is an anchor, not a detail network")
    matches = (_CONTROL.fullmatch(name) for name in tensors)
    blocks = sorted(int(match[1]) for match in matches if match)
    with torch.device("meta"):
        network = ShortcutDiT(backbone.detail_dit, blocks)
    return fill(network, tensors, path, device, dtype)


def save_detail(
    network: ShortcutDiT, folder: Path | str, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the detail network's weights into a backbone's folder."""
    save(network.state_dict(), Path(folder) / NAMES["detail"][0], dtype)
