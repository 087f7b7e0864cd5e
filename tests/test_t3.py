"""T3-Video's attention: near and far, like masked dense attention, whatever the chunk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelwizard.config.backbone import BackboneSettings, DiTSizes
from pixelwizard.config.schema import ConfigError
from pixelwizard.models.attention.base import Place
from pixelwizard.models.attention.t3 import SPLITS, T3, check_divides
from pixelwizard.models.wan.dit import WanDiT
from pixelwizard.models.weights import open_anchor, shapes_of

GRID, SPLIT = (2, 4, 6), (2, 2, 3)


def allowed(spread: bool) -> Tensor:
    """Which token [L] may see which [L]."""
    places = torch.cartesian_prod(*(torch.arange(length) for length in GRID))
    lengths, splits = torch.tensor(GRID), torch.tensor(SPLIT)
    groups = places % splits if spread else places // (lengths // splits)
    return (groups[:, None] == groups[None]).all(-1)


def test_every_token_sees_its_block_and_a_spread_set_and_gets_the_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 48, 2, 4, generator=draw) for _ in range(3))
    rule = T3(splits=[[1, 1, 1], SPLIT])
    found = rule(query, key, value, Place(GRID, 3))
    heads = [t.transpose(1, 2) for t in (query, key, value)]
    near, far = (
        F.scaled_dot_product_attention(*heads, attn_mask=allowed(s)) for s in (False, True)
    )
    torch.testing.assert_close(found, ((near + far) / 2).transpose(1, 2))
    chunks = [rule(query[:, s : s + 7], key, value, Place(GRID, 3, s)) for s in range(0, 48, 7)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), found)
    whole = F.scaled_dot_product_attention(*heads).transpose(1, 2)
    torch.testing.assert_close(rule(query, key, value, Place(GRID, 2)), whole)


def test_published_splits_divide_the_published_grid_and_no_other() -> None:
    for split in SPLITS:
        check_divides(split, (21, 68, 120))
    with pytest.raises(ConfigError, match="does not divide its grid of .*31, 67, 120"):
        check_divides(SPLITS[1], (31, 67, 120))
    with pytest.raises(ConfigError, match="attention.splits=.* must be three whole numbers"):
        T3(splits=[[1, 2]])


def test_published_weights_are_the_networks_by_name_and_size(tmp_path: Path) -> None:
    """A file with the base's names and sizes and no content."""
    with torch.device("meta"):
        shapes = shapes_of(WanDiT(DiTSizes()))
    path = tmp_path / "T3-Video-Wan2.2-T2V-5B.safetensors"
    write_empty(path, shapes)
    network, weights = open_anchor(BackboneSettings(name="5b", anchor=str(path), dit=DiTSizes()))
    assert weights.keys() == shapes.keys() and len(network.blocks) == 30


def write_empty(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """A sparse file of float32 weights of these shapes; it takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
