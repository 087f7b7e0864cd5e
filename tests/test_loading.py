"""Loading maps the files: host memory hardly grows with the size of the weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from loading import measured_apart, write_random

from pixelwizard.config.backbone import DiTSizes

SIZES = DiTSizes(dim=512, ffn_dim=2048, num_heads=4, num_layers=10, text_dim=512)
MIB = 1 << 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_needs_little_memory_besides_the_mapped_file(tmp_path: Path) -> None:
    size = write_random(tmp_path, SIZES)
    found = measured_apart(tmp_path, SIZES)
    assert size > found["weights"] > 70 * MIB
    assert found["peak_above"] < 24 * MIB
