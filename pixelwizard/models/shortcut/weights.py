"""The detail network's weights, from containers or safetensors, and the check of all files."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from pixelwizard.config.backbone import BackboneSettings
from pixelwizard.models.checkpoints import NAMES, find_weights, require_weights
from pixelwizard.models.shortcut.network import ShortcutDiT, make_detail
from pixelwizard.models.wan.files import read_tensors, save, unwrap
from pixelwizard.models.wan.layouts import official_dit
from pixelwizard.models.wan.weights import (
    check,
    fill_transformer,
    has_adapter,
    open_anchor,
    open_text_encoder,
    open_vae,
    shapes_of,
)

_CONTROL = re.compile(r"spatial_adapter\.zero_layers\.(\d+)\.weight")


def load_detail(
    backbone: BackboneSettings,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    mesh: DeviceMesh | None = None,
) -> ShortcutDiT:
    """Load the detail network, or this rank's slices of it if there is a ``mesh``.

    Which blocks it controls is read from the names of its weights, for a user's class with
    other names from the settings. Raises ValueError if its file is missing, broken or another
    network's.
    """
    return fill_transformer(*open_detail(backbone), device, dtype, mesh)


def open_detail(backbone: BackboneSettings) -> tuple[ShortcutDiT, dict[str, Tensor]]:
    """The detail network on the meta device and its mapped weights, checked but not loaded."""
    path = find_weights(backbone, "detail")
    tensors = official_dit(unwrap(read_tensors(path), path, backbone.ema))
    if backbone.detail_network is None and not has_adapter(tensors):
        raise ValueError(f"{path} has no spatial adapter: it is an anchor, not a detail network")
    matches = (_CONTROL.fullmatch(name) for name in tensors)
    blocks = sorted(int(match[1]) for match in matches if match)
    if blocks and blocks[-1] >= backbone.detail_dit.num_layers:
        raise ValueError(
            f"{path} steers block {blocks[-1]}, but this backbone's detail network has "
            f"{backbone.detail_dit.num_layers} blocks: it belongs to another one"
        )
    with torch.device("meta"):
        network = make_detail(
            backbone.detail_network, backbone.detail_dit, blocks or backbone.control_blocks
        )
    check(tensors, shapes_of(network), path)
    return network, tensors


def check_weights(backbone: BackboneSettings) -> None:
    """Check the files of all four parts before anything is computed; reads names and shapes only.

    Raises ValueError for the first file that is missing, broken or another network's.
    """
    require_weights(backbone)
    open_text_encoder(backbone)
    for part in (open_anchor, open_detail, open_vae):
        part(backbone)


def save_detail(
    network: ShortcutDiT, folder: Path | str, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the detail network's weights into a backbone's folder."""
    save(network.state_dict(), Path(folder) / NAMES["detail"][0], dtype)
