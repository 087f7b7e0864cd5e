"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["WANDB_MODE"] = "offline"  # whatever key this machine has
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores: a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden tensors: ``PIXELWIZARD_GOLDEN``, else the copy beside the tests."""
    folder = os.environ.get("PIXELWIZARD_GOLDEN")
    return Path(folder) if folder else Path(__file__).parent / "golden"
